import type { HandlerContext } from '@connectrpc/connect';
import { noObject } from '../audit/port.ts';
import { InvalidError, PreconditionError, UnavailableError } from '../domain/errors.ts';
import { type AssignedKind, kinds } from '../domain/kinds.ts';
import { type AssignedStatus, metadataOf } from '../domain/object.ts';
import type { Surroundings } from '../domain/present.ts';
import { decode } from '../domain/record.ts';
import { silenceOf } from '../domain/silence.ts';
import type { ExecuteInput, Liveness, StreamTarget } from '../reconcile/port.ts';
import { auditedCall, streamObjectsKey } from './audited_call.ts';
import { principalOf } from './call.ts';
import type { ObjectRef } from './object_location.ts';
import type { Objects } from './objects.ts';

/** What finding the other end of a stream needs. */
export interface StreamTargetOptions {
  readonly objects: Objects;
  readonly liveness: Liveness;
  readonly around: Surroundings;
}

/** Where a stream out of an object leads. Says at once when nobody would answer there. */
export async function streamTarget(
  { objects, liveness, around }: StreamTargetOptions,
  context: HandlerContext,
  kind: AssignedKind,
  ref: ObjectRef,
): Promise<StreamTarget> {
  const stored = await objects.find(principalOf(context), kind, ref);
  const object = decode(kind, stored);
  const { bay } = metadataOf(kind, object);
  const { namespace, name, uid } = stored;
  context.values.set(streamObjectsKey, [{ ...noObject, kind, bay, namespace, name, uid }]);
  const status = object.status as AssignedStatus | undefined;
  if (!stored.assigneeUid) {
    const waits = status?.message || 'it waits for one';
    throw new PreconditionError(`${kinds[kind].singular} "${stored.name}" is on no node yet: ${waits}`);
  }
  const nodeName = status?.node ?? '';
  const live = liveness.node(stored.assigneeUid);
  const nodeUid = liveness.agentOf(stored.assigneeUid);
  if (!live?.fresh || nodeUid === undefined) throw new UnavailableError(silenceOf(stored, nodeName, around).message);
  const call = auditedCall(context.method, context.values);
  return { bayUid: stored.bayUid, nodeUid, nodeName, objectUid: stored.uid, call };
}

/** A message of a call that executes a command. */
export interface ExecuteMessage<Start> {
  readonly input:
    | { readonly case: 'start'; readonly value: Start }
    | ExecuteInput
    | { readonly case: undefined; readonly value?: undefined };
}

/** The first message of such a call. Rejects with InvalidError. */
export async function startOf<Start>(input: AsyncIterator<ExecuteMessage<Start>>): Promise<Start> {
  const first = await input.next();
  const start = first.done ? undefined : first.value.input;
  if (start?.case !== 'start') throw new InvalidError('start', 'must be the first message: it says what to run');
  return start.value;
}

/** Those after it. Throws InvalidError. */
export async function* inputsOf<Start>(input: AsyncIterator<ExecuteMessage<Start>>): AsyncGenerator<ExecuteInput> {
  for (;;) {
    const { done, value } = await input.next();
    if (done) return;
    const message = (value as ExecuteMessage<Start>).input;
    if (message.case === 'start') throw new InvalidError('start', 'can only be the first message');
    if (message.case !== undefined) yield message;
  }
}
