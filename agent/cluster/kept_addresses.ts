import type { ClusterDriver, ObjectRef } from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import type { Log } from '../log.ts';
import type { Desired } from '../ports.ts';
import { fieldsOf, listOf, number, text } from './json_fields.ts';
import { keptAnnotationOf, keptUidOf } from './labels.ts';
import type { Kept } from './replace.ts';

export interface KeptAddressesOptions {
  readonly driver: Pick<ClusterDriver, 'get' | 'mergePatch' | 'create'>;
  /** A Lease of the bay, for this alone. It is made when it is needed. */
  readonly lease: ObjectRef;
  readonly desired: Pick<Desired, 'current'>;
  /** Aborts when this agent leads no more. */
  readonly term: AbortSignal;
  readonly log: Log;
}

/**
 * Addresses and ports of services that are being replaced, from before the end of the one until the next is made: whoever goes on after an agent
 * that was killed between the two, on another master perhaps, asks for the same. They are annotations of a Lease, as an agent has the rights for these:
 * not of the one by which the masters agree who leads, as each write would get in the way of its renewal. Only a leader writes them.
 */
export class KeptAddresses {
  readonly #options: KeptAddressesOptions;
  #loading: Promise<Map<string, Kept>> | undefined;

  constructor(options: KeptAddressesOptions) {
    this.#options = options;
    // What an agent has left that was killed after the next one was made is forgotten, too.
    this.#all().catch((error: unknown) => {
      options.log.debug({ error: (error as Error).message }, 'the kept addresses could not be read yet');
    });
  }

  /** Resolves when it is in the cluster. Rejects with ClusterError. */
  async keep(objectUid: string, kept: Kept): Promise<void> {
    const all = await this.#all();
    await this.#patch({ [keptAnnotationOf(objectUid)]: JSON.stringify(kept) });
    all.set(objectUid, kept);
  }

  /** Rejects with ClusterError. */
  async recall(objectUid: string): Promise<Kept | undefined> {
    return (await this.#all()).get(objectUid);
  }

  /** The next one is made, or none is wanted. Never rejects. */
  async forget(objectUid: string): Promise<void> {
    const all = await this.#loading?.catch(() => undefined);
    if (!all?.delete(objectUid)) return;
    await this.#drop([objectUid]);
  }

  async #all(): Promise<Map<string, Kept>> {
    // As nobody else writes while this agent leads, it is read once.
    this.#loading ??= this.#load().catch((error: unknown) => {
      this.#loading = undefined;
      throw error;
    });
    return await this.#loading;
  }

  async #load(): Promise<Map<string, Kept>> {
    const { driver, lease, term, desired } = this.#options;
    const found = await driver.get(lease, { signal: term });
    const all = new Map<string, Kept>();
    const stale: string[] = [];
    for (const [key, value] of Object.entries(found?.metadata.annotations ?? {})) {
      const uid = keptUidOf(key);
      if (uid === undefined) continue;
      const kept = read(value);
      const { complete, objects } = desired.current;
      if (kept && (objects.has(uid) || !complete)) all.set(uid, kept);
      else stale.push(uid);
    }
    if (stale.length > 0) await this.#drop(stale);
    return all;
  }

  async #drop(uids: readonly string[]): Promise<void> {
    try {
      await this.#patch(Object.fromEntries(uids.map((uid) => [keptAnnotationOf(uid), null])));
    } catch (error) {
      // Whoever leads next finds it, and asks for an address that it gets or that is taken.
      this.#options.log.debug({ uids, error: (error as Error).message }, 'a kept address could not be forgotten');
    }
  }

  async #patch(annotations: Record<string, string | null>): Promise<void> {
    const { driver, lease, term } = this.#options;
    const patch = async () => await driver.mergePatch(lease, { metadata: { annotations } }, { signal: term });
    try {
      await patch();
      return;
    } catch (error) {
      if (!(error instanceof ClusterError && error.kind === 'not-found')) throw error;
    }
    const { type, namespace = '', name } = lease;
    try {
      const made = { apiVersion: type.apiVersion, kind: type.kind, metadata: { namespace, name } };
      await driver.create(type, made, { signal: term });
    } catch (error) {
      // By another replacement, at the same time.
      if (!(error instanceof ClusterError && error.kind === 'already-exists')) throw error;
    }
    await patch();
  }
}

function read(value: string): Kept | undefined {
  try {
    const { clusterIp, ports } = fieldsOf(JSON.parse(value));
    return {
      clusterIp: text(clusterIp),
      ports: listOf(ports).map((port) => ({
        name: text(port.name),
        port: number(port.port),
        protocol: text(port.protocol) || 'TCP',
        nodePort: number(port.nodePort),
      })),
    };
  } catch {
    return undefined;
  }
}
