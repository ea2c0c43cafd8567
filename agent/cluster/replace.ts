import type { JsonObject } from '@bufbuild/protobuf';
import type { ClusterDriver, ClusterObject } from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import { fieldsOf, listOf, number, text } from './json_fields.ts';
import type { Live, ServicePort } from './live.ts';
import type { Manifest } from './manifest.ts';

/** What an object has from the cluster that one in its place is to have, too. */
export interface Kept {
  readonly clusterIp: string;
  readonly ports: readonly ServicePort[];
}

/** What a service has that its author left to the cluster; undefined: nothing. */
export function keptOf(live: Live | undefined): Kept | undefined {
  if (live?.facts.kind !== 'Service') return undefined;
  const { clusterIp, ports } = live.facts;
  const hasAddress = clusterIp !== '' && clusterIp !== 'None';
  return hasAddress || ports.some(({ nodePort }) => nodePort > 0) ? { clusterIp, ports } : undefined;
}

/** The object to make in the place of one that had `kept`: with the address and the ports on nodes that it had, where the author names none. */
export function withKept(manifest: Manifest, kept: Kept): JsonObject {
  const { object, kind } = manifest;
  if (kind !== 'Service') return object;
  const spec = fieldsOf(object.spec) as JsonObject;
  const next: JsonObject = { ...spec };
  const type = text(spec.type) || 'ClusterIP';
  const hasAddress = type !== 'ExternalName' && spec.clusterIP === undefined && spec.clusterIPs === undefined;
  if (hasAddress && kept.clusterIp && kept.clusterIp !== 'None') next.clusterIP = kept.clusterIp;
  if (type === 'NodePort' || type === 'LoadBalancer') {
    next.ports = listOf(spec.ports).map((port) => {
      const before = kept.ports.find((one) => samePort(one, port));
      return {
        ...port,
        ...(port.nodePort === undefined && before?.nodePort && { nodePort: before.nodePort }),
      } as JsonObject;
    });
  }
  return { ...object, spec: next };
}

/**
 * The object to apply to one that is there. What it was given when it was made in the place of another is not taken away from it again: the
 * cluster would not give it anything else.
 */
export function objectInPlace(manifest: Manifest, { facts }: Live): JsonObject {
  return facts.kind === 'Service' && facts.ownsAddress ? withKept(manifest, facts) : manifest.object;
}

const samePort = (before: ServicePort, port: Readonly<Record<string, unknown>>): boolean =>
  before.port === number(port.port) && before.protocol === (text(port.protocol) || 'TCP');

const immutable = /immutable|once set|(may not|can ?not|must not) (be )?(chang|updat|add|remov|modif|unset)/i;

/**
 * Whether the cluster refuses to change an object like that, while it may be good as a new one: a pod's containers, a service's address. What
 * is wrong otherwise is not made right by taking away what there is.
 */
export const isOfChange = ({ kind, status, causes }: ClusterError): boolean =>
  kind === 'invalid' &&
  status === 422 &&
  causes.some(({ reason, message }) => reason === 'FieldValueForbidden' || immutable.test(message));

/**
 * Asks the cluster whether it would take a manifest as a new object, when there is one of its name that it will not change in place. Resolves
 * with the object as it would be, where the cluster tells. Rejects with the ClusterError that says what is wrong with it.
 */
export async function dryRunCreate(
  driver: ClusterDriver,
  manifest: Manifest,
  live: Live | undefined,
  signal: AbortSignal | undefined,
): Promise<ClusterObject | undefined> {
  try {
    return await driver.create(manifest.type, manifest.object, { dryRun: true, signal });
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    // That the name is taken is found out last, after everything else was found to be good.
    if (error.kind === 'already-exists') return undefined;
    if (holdsItself(error, live)) return undefined;
    throw error;
  }
}

/** Whether something is taken only because the object to be replaced has it. */
function holdsItself({ message, causes }: ClusterError, live: Live | undefined): boolean {
  if (live?.facts.kind !== 'Service') return false;
  const { clusterIp, ports, healthCheckNodePort } = live.facts;
  const own = [clusterIp, healthCheckNodePort, ...ports.map(({ nodePort }) => nodePort)].filter(Boolean).map(String);
  const words = causes.length > 0 ? causes.map((cause) => cause.message) : [message];
  return words.every((said) => /already allocated/.test(said) && own.some((value) => wordsOf(said).has(value)));
}

const wordsOf = (said: string): ReadonlySet<string> =>
  new Set(said.split(/[^0-9a-f.:]+/i).map((word) => word.replace(/[:.]+$/, '')));
