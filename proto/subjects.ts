/**
 * The subjects of the bus: the one place where they are built and taken apart.
 *
 *     bk.v1.BAY.NODE.up.WHAT           agent → control plane
 *     bk.v1.BAY.NODE.down.WHAT         control plane → agent
 *     bk.v1.BAY.NODE.up.stream.ID      frames of an open stream, agent → control plane
 *     bk.v1.BAY.NODE.down.stream.ID    frames of an open stream, control plane → agent
 *     _INBOX_NODE.>                    replies to the agent's requests
 *
 * BAY and NODE are uids, ID is a stream's id; each is one token of `[A-Za-z0-9-]`.
 */

/** What an agent sends. All but `heartbeat` are requests. */
export const upVerbs = ['hello', 'sync', 'heartbeat', 'report', 'renew'] as const;
export type UpVerb = (typeof upVerbs)[number];

/** What the control plane sends. `assign` is published; `open` and `check` are requests. */
export const downVerbs = ['assign', 'open', 'check'] as const;
export type DownVerb = (typeof downVerbs)[number];

/** An agent's address: the uids of its bay and its node. */
export interface NodeAddress {
  readonly bayUid: string;
  readonly nodeUid: string;
}

const token = /^[A-Za-z0-9-]{1,64}$/;

function checked(value: string): string {
  if (!token.test(value)) throw new TypeError(`not a subject token: ${JSON.stringify(value)}`);
  return value;
}

const base = ({ bayUid, nodeUid }: NodeAddress) => `bk.v1.${checked(bayUid)}.${checked(nodeUid)}`;

export const upSubject = (node: NodeAddress, verb: UpVerb): string => `${base(node)}.up.${verb}`;
export const downSubject = (node: NodeAddress, verb: DownVerb): string => `${base(node)}.down.${verb}`;
export const upStreamSubject = (node: NodeAddress, streamId: string): string =>
  `${base(node)}.up.stream.${checked(streamId)}`;
export const downStreamSubject = (node: NodeAddress, streamId: string): string =>
  `${base(node)}.down.stream.${checked(streamId)}`;

/** What the control plane subscribes to: one verb, from every agent. */
export const everyUpSubject = (verb: UpVerb): string => `bk.v1.*.*.up.${verb}`;
/** What an agent subscribes to for the frames of all its streams. */
export const everyDownStreamSubject = (node: NodeAddress): string => `${base(node)}.down.stream.*`;
/** Frames of every stream of every agent. */
export const everyUpStreamSubject = (): string => 'bk.v1.*.*.up.stream.*';

/** The prefix of an agent's inboxes: its own, so that no agent sees the replies to another. */
export const inboxPrefix = (nodeUid: string): string => `_INBOX_${checked(nodeUid)}`;

/** All that an agent may do on the bus, and nothing else. It answers requests by the reply subject it was given. */
export const agentPermissions = (node: NodeAddress) => ({
  publish: [`${base(node)}.up.>`],
  subscribe: [`${base(node)}.down.>`, `${inboxPrefix(node.nodeUid)}.>`],
});

/** A subject taken apart. Who sent it is certain: the broker lets each agent publish under its own address only. */
export type ParsedUpSubject = NodeAddress &
  ({ readonly verb: UpVerb } | { readonly verb: 'stream'; readonly streamId: string });

/** Undefined when it is not a subject that an agent sends on. */
export function parseUpSubject(subject: string): ParsedUpSubject | undefined {
  const [bk, version, bayUid, nodeUid, direction, verb, streamId, ...rest] = subject.split('.');
  if (bk !== 'bk' || version !== 'v1' || direction !== 'up' || rest.length > 0) return undefined;
  if (!bayUid || !nodeUid || !token.test(bayUid) || !token.test(nodeUid)) return undefined;
  if (verb === 'stream') {
    return streamId && token.test(streamId) ? { bayUid, nodeUid, verb, streamId } : undefined;
  }
  const known = upVerbs.find((v) => v === verb);
  return known && streamId === undefined ? { bayUid, nodeUid, verb: known } : undefined;
}

/** The stream that a `down.stream` subject belongs to; undefined when it is not one. */
export function parseDownStreamSubject(subject: string): string | undefined {
  const match = /^bk\.v1\.[A-Za-z0-9-]{1,64}\.[A-Za-z0-9-]{1,64}\.down\.stream\.([A-Za-z0-9-]{1,64})$/.exec(subject);
  return match?.[1];
}
