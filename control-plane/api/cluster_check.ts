import { Code } from '@connectrpc/connect';
import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import {
  AlreadyExistsError,
  DeniedError,
  InvalidError,
  NotFoundError,
  PreconditionError,
  UnavailableError,
} from '../domain/errors.ts';
import { type AssignedKind, type KindName, kinds } from '../domain/kinds.ts';
import { fieldOf, type ObjectMessage } from '../domain/object.ts';
import type { Surroundings } from '../domain/present.ts';
import { silenceOf } from '../domain/silence.ts';
import type { Checks, Liveness, Verdict } from '../reconcile/port.ts';
import type { BayRef } from './bay_directory.ts';

type Refusal = NonNullable<Verdict['refusal']>;

/**
 * What the cluster of a Kubernetes bay says to an object; undefined where there is no cluster to ask. Rejects as the cluster refuses it, and with
 * UnavailableError when the bay is offline: nobody guesses.
 */
export async function askCluster(
  { checks, liveness, around }: { readonly checks: Checks; readonly liveness: Liveness; readonly around: Surroundings },
  kind: KindName,
  object: ObjectMessage,
  bay: BayRef | undefined,
): Promise<Verdict | undefined> {
  if (!kinds[kind].assigned || kind === 'Container' || bay?.engine !== ContainerEngine.KUBERNETES) return undefined;
  const live = liveness.node(bay.uid);
  const nodeUid = liveness.agentOf(bay.uid);
  if (!live?.fresh || nodeUid === undefined) {
    const { message } = silenceOf({ assigneeUid: bay.uid, bayUid: bay.uid }, '', around);
    throw new UnavailableError(`bay "${bay.name}" is offline, so its cluster cannot be asked. ${message}`);
  }
  const verdict = await checks.check({ bayUid: bay.uid, nodeUid }, kind as AssignedKind, object);
  if (verdict.refusal) throw refused(kind, bay.name, verdict.refusal);
  return verdict;
}

function refused(kind: KindName, bay: string, { code, reason, message, field }: Refusal): Error {
  const says = `the cluster of bay "${bay}" refuses it: ${message}${reason ? ` (${reason})` : ''}`;
  switch (code) {
    case Code.InvalidArgument:
      return new InvalidError(field ? fieldOf(kind, field) : fieldOf(kind, 'spec.manifest'), says);
    case Code.NotFound:
      return new NotFoundError(says);
    case Code.AlreadyExists:
      return new AlreadyExistsError(says);
    case Code.PermissionDenied:
      return new DeniedError(says);
    case Code.Unavailable:
      return new UnavailableError(says);
    default:
      return new PreconditionError(says);
  }
}
