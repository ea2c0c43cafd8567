import { create } from '@bufbuild/protobuf';
import { type Timestamp, timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type Bay, BayPhase } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import type { ContainerStatus } from '../../proto/gen/baykeeper/v1/container_pb.js';
import type { Delivery } from '../../proto/gen/baykeeper/v1/delivery_pb.js';
import {
  WhyOutcome,
  type WhyResponse,
  WhyResponseSchema,
  WhyStage,
  type WhyStep,
  WhyStepSchema,
} from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import type { Metadata } from '../../proto/gen/baykeeper/v1/metadata_pb.js';
import { ConditionStatus, type Node, NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { messagesRefused } from '../../proto/signing.ts';
import type { Freshness } from './freshness.ts';
import type { AssignedKind } from './kinds.ts';
import { type AssignedStatus, describe, metadataOf, type ObjectMessage } from './object.ts';
import { phaseName, phasesOf } from './present.ts';
import { forbiddenByPolicy } from './refusal.ts';
import type { Silence } from './silence.ts';

/** What explaining an object that an agent reports on needs. */
export interface AssignedFacts {
  readonly kind: AssignedKind;
  /** As it is stored: with the last reported phase, not with UNKNOWN. */
  readonly object: ObjectMessage;
  /** Uid of its node; empty: none. */
  readonly assigneeUid: string;
  readonly live: Freshness | undefined;
  /** Why its agent is not believed, when it is not. */
  readonly silence: Silence;
  /** When the current generation was handed to the bus, if that was in this control plane's life. */
  readonly publishTimeMs: number | undefined;
  readonly brokerConnected: boolean;
  /** Name of the engine, for the actor of what the engine does: `docker`, `kubernetes`. */
  readonly engine: string;
}

type StepInit = Partial<Omit<WhyStep, '$typeName' | '$unknown' | 'stage'>> & { outcome: WhyOutcome };

/** The chain of an object that is given to an agent. */
export function explainAssigned(facts: AssignedFacts): WhyResponse {
  const metadata = metadataOf(facts.kind, facts.object);
  const status = facts.object.status as AssignedStatus;
  const steps = assignedSteps(facts, metadata, status);
  const response = answer(metadata, steps);
  response.summary = assignedSummary(facts, metadata, status, response.steps);
  response.events = status.events ?? [];
  return response;
}

function assignedSteps(facts: AssignedFacts, metadata: Metadata, status: AssignedStatus): StepInit[] {
  const { delivery } = status;
  const deleting = metadata.deleteTime !== undefined;
  const agent = status.node ? `agent/${status.node}` : 'agent';
  const engine = status.node ? `${facts.engine}/${status.node}` : facts.engine;
  const accepted: StepInit = {
    outcome: WhyOutcome.DONE,
    time: metadata.deleteTime ?? metadata.updateTime,
    actor: 'control-plane',
    message: deleting ? 'Its deletion was accepted.' : `Generation ${metadata.generation} was accepted.`,
  };

  if (!facts.assigneeUid) {
    const waits: StepInit = { outcome: WhyOutcome.WAITING, reason: status.reason, message: status.message };
    return [accepted, { ...waits, actor: 'broker' }, waiting(agent), waiting(engine), waiting(engine)];
  }

  // The agent's word on a deletion is that it is under way; there is no generation of it to go by.
  const received = deleting
    ? status.phase === phasesOf(facts.kind).deleting
    : (delivery?.receivedGeneration ?? 0n) >= metadata.generation;
  const applied = !deleting && (delivery?.appliedGeneration ?? 0n) >= metadata.generation;
  const observed = !deleting && (delivery?.observedGeneration ?? 0n) >= metadata.generation;

  const published: StepInit = received
    ? {
        outcome: WhyOutcome.DONE,
        time: deleting ? publishTime(facts, undefined) : publishTime(facts, delivery),
        actor: 'broker',
        message: refusedElsewhere(status),
      }
    : facts.publishTimeMs !== undefined && !deleting
      ? { outcome: WhyOutcome.DONE, time: timestampFromMs(facts.publishTimeMs), actor: 'broker' }
      : { outcome: WhyOutcome.WAITING, actor: 'broker', ...unpublished(facts) };
  const receivedStep: StepInit = received
    ? { outcome: WhyOutcome.DONE, time: deleting ? undefined : delivery?.receiveTime, actor: agent }
    : facts.live?.fresh
      ? { ...waiting(agent), ...underWay(facts.live) }
      : { ...waiting(agent), ...facts.silence };
  const appliedStep: StepInit = applied
    ? { outcome: WhyOutcome.DONE, time: delivery?.applyTime, actor: engine }
    : received
      ? { ...notApplied(facts, status, observed), actor: isForbidden(status) ? `policy/${status.node}` : engine }
      : waiting(engine);
  return [accepted, published, receivedStep, appliedStep, observedStep(facts, status, observed, engine)];
}

/** What holds up a message to an agent that is there. */
function underWay({ status }: Freshness): { reason: string; message: string } {
  const refused = status.conditions.find(({ type }) => type === messagesRefused);
  if (refused?.status !== ConditionStatus.TRUE) return { reason: '', message: 'Under way to the agent.' };
  return {
    reason: messagesRefused,
    message: `The agent refuses what is not signed by the control plane: ${sentence(refused.message)}`,
  };
}

function observedStep(facts: AssignedFacts, status: AssignedStatus, observed: boolean, actor: string): StepInit {
  const { delivery } = status;
  if (!observed) return waiting(actor);
  const phase = phaseName(facts.kind, status.phase);
  const step = {
    time: delivery?.observeTime,
    actor,
    generation: delivery?.observedGeneration,
    reason: status.reason,
    message: status.message ? `${phase}: ${status.message}` : phase,
  };
  if (facts.live?.fresh) return { ...step, outcome: WhyOutcome.DONE };
  return {
    ...step,
    outcome: WhyOutcome.UNKNOWN,
    reason: facts.silence.reason,
    message: `It was ${phase}. ${facts.silence.message}`,
  };
}

/** The node's owner has the last word, whatever the engine would have said. */
const isForbidden = ({ reason }: AssignedStatus): boolean => reason === forbiddenByPolicy;

/** Which nodes had it before. */
function refusedElsewhere(status: AssignedStatus): string {
  const { refusedBy: nodes = [] } = status as Partial<ContainerStatus>;
  return nodes.length === 0 ? '' : `It was given to ${status.node}, as the policy of ${nodes.join(', ')} forbids it.`;
}

function notApplied(facts: AssignedFacts, status: AssignedStatus, observed: boolean): StepInit {
  const failed = observed && (status.phase === phasesOf(facts.kind).failed || isForbidden(status));
  const retry = status.retryTime;
  const said = status.message || phaseName(facts.kind, status.phase);
  const again = retry ? ` It is tried again at ${new Date(Number(retry.seconds) * 1000).toISOString()}.` : '';
  return {
    outcome: failed ? WhyOutcome.REFUSED : WhyOutcome.WAITING,
    reason: status.reason,
    message: again ? `${sentence(said)}${again}` : said,
  };
}

function unpublished(facts: AssignedFacts): Silence {
  if (!facts.brokerConnected) {
    return { reason: 'BrokerUnavailable', message: 'The broker cannot be reached. It is published once it can.' };
  }
  if (!facts.live?.fresh) return facts.silence;
  return { reason: '', message: 'It waits for its turn.' };
}

const publishTime = (facts: AssignedFacts, delivery: Delivery | undefined): Timestamp | undefined =>
  delivery?.publishTime ?? (facts.publishTimeMs === undefined ? undefined : timestampFromMs(facts.publishTimeMs));

function assignedSummary(
  facts: AssignedFacts,
  metadata: Metadata,
  status: AssignedStatus,
  steps: readonly WhyStep[],
): string {
  const name = capital(describe(facts.kind, metadata));
  if (metadata.deleteTime) {
    const wait = facts.live?.fresh ? `its agent to remove it` : `its node: ${facts.silence.message}`;
    return `${name} is being deleted, and waits for ${wait.replace(/\.$/, '')}. With force it goes at once.`;
  }
  const stuck = steps.find((step) => step.outcome !== WhyOutcome.DONE);
  if (!stuck) {
    const phase = phaseName(facts.kind, status.phase);
    const detail = status.reason ? ` (${status.reason}${status.message ? `: ${status.message}` : ''})` : '';
    return `${name} is as asked, and was last seen ${phase}${detail}${detail.endsWith('.)') ? '' : '.'}`;
  }
  const because = [stuck.reason, stuck.message].filter(Boolean).join(': ') || 'nothing is wrong so far';
  if (stuck.outcome === WhyOutcome.REFUSED) return sentence(`${name} was refused by ${stuck.actor}: ${because}`);
  if (stuck.outcome === WhyOutcome.UNKNOWN)
    return sentence(`${name} was as asked; what it is now is not known: ${because}`);
  return sentence(
    `${name} is not as asked yet: it waits to be ${stageVerb[stuck.stage]} (${because.replace(/\.$/, '')})`,
  );
}

const stageVerb: Readonly<Record<WhyStage, string>> = {
  [WhyStage.UNSPECIFIED]: 'done',
  [WhyStage.ACCEPTED]: 'accepted',
  [WhyStage.PUBLISHED]: 'published',
  [WhyStage.RECEIVED]: 'received by its agent',
  [WhyStage.APPLIED]: 'applied',
  [WhyStage.OBSERVED]: 'seen to be so',
};

/** A BayModel is a record; with it being accepted, all is done. */
export function explainBayModel(object: ObjectMessage): WhyResponse {
  const metadata = metadataOf('BayModel', object);
  const done: StepInit = { outcome: WhyOutcome.DONE, time: metadata.updateTime, actor: 'control-plane' };
  const response = answer(metadata, [
    { ...done, message: `Generation ${metadata.generation} was accepted.` },
    ...Array.from({ length: 4 }, () => ({ ...done, message: 'A template asks for nothing to be done.' })),
  ]);
  response.summary = `${capital(describe('BayModel', metadata))} is a template: it is as asked as soon as it is accepted.`;
  return response;
}

/** A Bay is what its nodes are. `bay`: as it is shown. */
export function explainBay(bay: Bay): WhyResponse {
  const metadata = metadataOf('Bay', bay);
  const done: StepInit = { outcome: WhyOutcome.DONE, time: metadata.updateTime, actor: 'control-plane' };
  const { status } = bay;
  const outcome =
    status?.phase === BayPhase.READY
      ? WhyOutcome.DONE
      : status?.phase === BayPhase.UNKNOWN
        ? WhyOutcome.UNKNOWN
        : WhyOutcome.WAITING;
  const joined = (status?.nodes ?? 0) > 0 ? WhyOutcome.DONE : WhyOutcome.WAITING;
  const nodes = `${status?.nodesReady ?? 0} of ${status?.nodes ?? 0} nodes are ready.`;
  const response = answer(metadata, [
    { ...done, message: `Generation ${metadata.generation} was accepted.` },
    { ...done, message: 'Nodes may join.' },
    { outcome: joined, actor: 'agent', message: `${status?.nodes ?? 0} nodes have joined.` },
    { outcome: joined, actor: 'agent', message: nodes },
    { outcome, actor: 'agent', reason: status?.reason ?? '', message: status?.message || nodes },
  ]);
  const name = capital(describe('Bay', metadata));
  response.summary =
    outcome === WhyOutcome.DONE ? `${name} is ready: ${nodes}` : sentence(`${name}: ${status?.message || nodes}`);
  return response;
}

/** A Node is what its agent says. `node`: as it is shown. */
export function explainNode(node: Node): WhyResponse {
  const metadata = metadataOf('Node', node);
  const actor = `agent/${metadata.name}`;
  const { status } = node;
  const phase = status?.phase ?? NodePhase.UNSPECIFIED;
  const stale = phase === NodePhase.UNKNOWN || phase === NodePhase.PENDING;
  const upToDate = (status?.appliedRevision ?? 0n) >= (status?.assignedRevision ?? 0n);
  const word = stale ? WhyOutcome.UNKNOWN : upToDate ? WhyOutcome.DONE : WhyOutcome.WAITING;
  const revisions = `It has revision ${status?.appliedRevision ?? 0n} of ${status?.assignedRevision ?? 0n}.`;
  const refused = phase === NodePhase.REVOKED || phase === NodePhase.NOT_READY;
  const response = answer(metadata, [
    { outcome: WhyOutcome.DONE, time: metadata.createTime, actor: 'control-plane', message: 'It was enrolled.' },
    {
      outcome: WhyOutcome.DONE,
      actor: 'broker',
      message: `The newest work meant for it is revision ${status?.assignedRevision ?? 0n}.`,
    },
    { outcome: word, actor, time: status?.confirmTime, message: revisions },
    { outcome: word, actor, time: status?.confirmTime, message: revisions },
    {
      outcome: stale ? WhyOutcome.UNKNOWN : refused ? WhyOutcome.REFUSED : WhyOutcome.DONE,
      actor,
      time: status?.observeTime,
      reason: status?.reason ?? '',
      message: status?.message || 'Ready.',
    },
  ]);
  const name = capital(describe('Node', metadata));
  response.summary =
    phase === NodePhase.READY
      ? `${name} is ready.`
      : sentence(`${name}: ${status?.message || 'nothing is known of it'}`);
  return response;
}

function answer(metadata: Metadata, steps: readonly StepInit[]): WhyResponse {
  return create(WhyResponseSchema, {
    uid: metadata.uid,
    generation: metadata.generation,
    steps: steps.map((step, i) => {
      // The stages are numbered in the order of the chain.
      const stage: WhyStage = WhyStage.ACCEPTED + i;
      return create(WhyStepSchema, { generation: metadata.generation, ...step, stage });
    }),
  });
}

const waiting = (actor: string): StepInit => ({ outcome: WhyOutcome.WAITING, actor });
const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
const sentence = (text: string): string => (text.endsWith('.') ? text : `${text}.`);
