import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import type { Change, Store, StoredObject } from '../../control-plane/store/port.ts';
import { openSqliteStore } from '../../control-plane/store/sqlite.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import type { Acknowledged } from './store_load.ts';

const kills = 100;
const log = { info: () => undefined, warn: console.error, error: console.error };

/** A process that loads the store, started ahead of its turn: it opens nothing until `go`. */
class Loader {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly acknowledged: Acknowledged[] = [];
  #rest = '';
  #ready = false;
  #onLine: () => void = () => undefined;

  constructor(file: string) {
    const program = path.join(import.meta.dirname, 'store_load.ts');
    this.#child = spawn(process.execPath, [program, file], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const lines = `${this.#rest}${text}`.split('\n');
      this.#rest = lines.pop() ?? '';
      for (const line of lines) {
        if (this.#ready) this.acknowledged.push(JSON.parse(line) as Acknowledged);
        this.#ready = true;
      }
      this.#onLine();
    });
  }

  async #line(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#onLine = resolve;
      this.#child.once('exit', resolve);
    });
    if (this.#child.exitCode !== null) throw new Error(`the loading process ended by itself`);
  }

  async go(forgetBefore: number): Promise<void> {
    while (!this.#ready) await this.#line();
    this.#child.stdin.write(`${forgetBefore}\n`);
  }

  async firstWrite(): Promise<void> {
    while (this.acknowledged.length === 0) await this.#line();
  }

  /** Kills it, and resolves when all that it ever printed is in `acknowledged`. */
  async kill(): Promise<void> {
    const closed = once(this.#child, 'close');
    this.#child.kill('SIGKILL');
    await closed;
    if (this.#child.signalCode !== 'SIGKILL') throw new Error('the loading process ended before it was killed');
  }
}

/** What the store is known to hold, from its changes alone. */
interface Known {
  revision: number;
  readonly objects: Map<string, StoredObject>;
  readonly heads: Map<string, number>;
}

const text = (o: StoredObject): string => `${JSON.stringify({ ...o, body: '' })} ${Buffer.from(o.body).toString()}`;

/** Reads everything that has been written since the last time, and holds each part of the store against the others. */
const verify = async (store: Store, known: Known, acknowledged: readonly Acknowledged[]): Promise<void> => {
  const changes = new Map<number, Change>();
  for (let more = true; more; ) {
    const page = await store.changesSince(known.revision, 1000);
    for (const change of page) {
      const { revision, op, object, chain, chainPrevious } = change;
      if (revision !== known.revision + 1) throw new Error(`revision ${revision} comes after ${known.revision}`);
      known.revision = revision;
      changes.set(revision, change);
      const before = known.objects.get(object.uid);
      if ((before?.revision ?? 0) !== change.previousRevision)
        throw new Error(`change ${revision} does not follow its object`);
      if (op === 'put') known.objects.set(object.uid, object);
      else known.objects.delete(object.uid);
      if (chainPrevious !== (chain === '' ? 0 : (known.heads.get(chain) ?? 0))) {
        throw new Error(`change ${revision} does not follow its chain`);
      }
      if (chain !== '') known.heads.set(chain, revision);
    }
    more = page.length > 0;
  }
  if (store.revision !== known.revision)
    throw new Error(`the store is at ${store.revision}, its changes end at ${known.revision}`);

  const { objects } = await store.list({ kind: 'Container', orderBy: 'name', descending: false, limit: 100_000 });
  const [held, expected] = [objects, [...known.objects.values()]].map((all) => all.map(text).sort().join('\n'));
  if (held !== expected)
    throw new Error(`the objects are not what the changes make of them at revision ${known.revision}`);
  for (const [node, head] of known.heads) {
    const assigned = await store.assigned(node);
    if (assigned.head !== head) throw new Error(`the chain of ${node} ends at ${assigned.head} in place of ${head}`);
    const count = objects.filter((o) => o.assigneeUid === node).length;
    if (assigned.objects.length !== count)
      throw new Error(`${assigned.objects.length} objects are assigned to ${node}`);
  }

  // Whole or not at all: also those writes that were never acknowledged.
  for (const { revision, op, object } of changes.values()) {
    if (op !== 'put') continue;
    const body = JSON.parse(Buffer.from(object.body).toString()) as Body;
    if (body.revision !== revision) throw new Error(`the body of change ${revision} is that of ${body.revision}`);
    for (const [i, uid] of body.partners.entries()) {
      const partner = changes.get(revision - body.partners.indexOf(object.uid) + i);
      if (partner?.object.uid !== uid) throw new Error(`change ${revision} has lost its partner ${uid}`);
    }
  }
  for (const { revisions, uids, op } of acknowledged) {
    for (const [i, revision] of revisions.entries()) {
      const change = changes.get(revision);
      if (change?.op !== op || change.object.uid !== uids[i])
        throw new Error(`the acknowledged change ${revision} is lost`);
    }
  }
  const remembered = await Promise.all(
    acknowledged.map(({ requestId }) =>
      store.write({ reads: [], request: { project: 'red', requestId }, apply: (view) => view.remembered?.uid }),
    ),
  );
  for (const [i, { uids, requestId }] of acknowledged.entries()) {
    if (remembered[i] !== uids.join(' ')) throw new Error(`the acknowledged request ${requestId} is forgotten`);
  }
};

interface Body {
  readonly revision: number;
  readonly partners: readonly string[];
}

test(`after each of ${kills} kills in mid-load every acknowledged write is there and none is half there`, async (t) => {
  t.timeout(180_000);
  await using folder = await temporaryFolder('store-crash');
  const file = path.join(folder.path, 'store.db');
  const known: Known = { revision: 0, objects: new Map(), heads: new Map() };
  let writes = 0;
  let next = new Loader(file);
  try {
    for (let i = 0; i < kills; i += 1) {
      const loader = next;
      await loader.go(known.revision);
      next = new Loader(file);
      // Now and then while it opens the store and takes up what its predecessor left.
      if (i % 8 !== 7) await loader.firstWrite();
      await delay(Math.random() * 100);
      await loader.kill();
      writes += loader.acknowledged.length;
      const store = await openSqliteStore({ file, clock: Date, log });
      await verify(store, known, loader.acknowledged);
      await store.close();
    }
  } finally {
    await next.kill();
  }
  t.log(`${writes} writes were acknowledged, ${known.revision} revisions`);
  t.true(writes > kills * 10);
});
