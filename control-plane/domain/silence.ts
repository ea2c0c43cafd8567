import { ConditionStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { Freshness } from './freshness.ts';

/** The reason of whatever is not known because its node says nothing. */
export const nodeSilent = 'NodeSilent';
/** The reason where nodes of a Kubernetes bay are heard, and none of their agents leads. */
const noLeader = 'NoLeader';

/** Why nobody is believed about an object now. */
export interface Silence {
  readonly reason: string;
  readonly message: string;
}

/** What is known of the agents. */
interface Heard {
  liveness(assigneeUid: string): Freshness | undefined;
  nodesOf(bayUid: string): readonly { readonly uid: string; readonly revoked: boolean; readonly reported: unknown }[];
}

/** When a node was last heard from. `nodeName`: empty where it is not known. */
export function lastHeard(nodeName: string, live: Freshness | undefined): string {
  const name = nodeName ? `Node "${nodeName}"` : 'Its node';
  if (!live) return `${name} has not been heard from since the control plane started.`;
  const since = new Date(live.confirmTimeMs).toISOString();
  return live.connected
    ? `${name} was last heard from at ${since}.`
    : `${name} has lost its connection; it was last heard from at ${since}.`;
}

/** Of an object that is assigned to a node, or to a Kubernetes bay as a whole: there it is the agent that leads which would say something. */
export function silenceOf(
  { assigneeUid, bayUid }: { readonly assigneeUid: string; readonly bayUid: string },
  nodeName: string,
  around: Heard,
): Silence {
  const live = around.liveness(assigneeUid);
  const masters =
    live || assigneeUid !== bayUid ? [] : around.nodesOf(bayUid).filter((node) => !node.reported && !node.revoked);
  const heard = masters.flatMap((node) => around.liveness(node.uid) ?? []).filter(({ fresh }) => fresh);
  if (heard.length === 0) return { reason: nodeSilent, message: lastHeard(nodeName, live) };
  const problem = heard
    .flatMap(({ status }) => status.conditions)
    .find(({ type, status }) => (type === 'Ready' || type === 'LeaderElected') && status !== ConditionStatus.TRUE);
  if (!problem) return { reason: noLeader, message: 'No agent of its bay leads yet.' };
  return {
    reason: problem.reason || noLeader,
    message: `No agent of its bay leads: ${problem.message.replace(/\.?$/, '.')}`,
  };
}
