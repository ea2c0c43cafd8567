import { create } from '@bufbuild/protobuf';
import {
  ContainerPhase,
  type ContainerSpec,
  type ContainerStatus,
  ContainerStatusSchema,
  HealthState,
  PortMappingSchema,
  PortProtocol,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { type DeliveryTimes, deliveryOf, type Problem, timestampAt } from '../delivery.ts';
import { DriverError, type DriverErrorKind, type EngineContainer } from '../drivers/driver.ts';
import { powerOf } from './container_spec.ts';
import type { Ending, ObjectMemory } from './memory.ts';
import { hasFinished } from './power.ts';

/** How what is on the engine reads as a ContainerStatus. Pure. */

const reasons: { readonly [K in DriverErrorKind]: string } = {
  'image-not-found': 'ImageNotFound',
  'pull-denied': 'PullDenied',
  'pull-failed': 'PullFailed',
  'port-taken': 'PortTaken',
  'name-taken': 'NameConflict',
  'no-space': 'NoSpace',
  'engine-unavailable': 'EngineUnavailable',
  invalid: 'InvalidSpec',
  permission: 'PermissionDenied',
  'not-found': 'ContainerGone',
  'not-running': 'NotRunning',
  leftover: 'EngineLeftover',
  cancelled: 'Cancelled',
  other: 'EngineError',
};

const remedies: Partial<Record<DriverErrorKind, string>> = {
  'image-not-found': 'check the name and tag of the image, or put it on the node',
  'pull-denied': "log in to the registry on the node, or check the image's name",
  'pull-failed': 'check that the node can reach the registry, or put the image on the node',
  'port-taken': 'free the port on the node, or choose another host_port',
  'no-space': "free space on the engine's disk",
  leftover:
    'a crash of the engine left a part of it behind: remove the container on the node (docker rm -f), and it is made anew',
};

/** In words that a user can act on. */
export function problemOf(error: unknown, retryTimeMs: number | undefined): Problem {
  if (!(error instanceof DriverError)) {
    return { reason: 'AgentError', message: error instanceof Error ? error.message : String(error), retryTimeMs };
  }
  const remedy = remedies[error.kind];
  const hint = remedy && !error.message.includes(remedy) ? `${error.message}; ${remedy}` : error.message;
  return { reason: reasons[error.kind], message: hint.slice(0, maxMessageChars), retryTimeMs };
}

const maxMessageChars = 2048;

export interface StatusInput {
  readonly nodeName: string;
  /** It is on its way out. */
  readonly removing: boolean;
  /** What is wanted. Undefined when this agent cannot read it. */
  readonly spec: ContainerSpec | undefined;
  /** The container that counts; undefined: none. */
  readonly container: EngineContainer | undefined;
  readonly memory: ObjectMemory;
  readonly problem: Problem | undefined;
  readonly doing: 'pulling' | 'creating' | undefined;
  readonly delivery: DeliveryTimes;
}

export function containerStatus(input: StatusInput): ContainerStatus {
  const { container, memory, problem, doing, nodeName } = input;
  const status = create(ContainerStatusSchema, {
    node: nodeName,
    ...phaseOf(input),
    delivery: deliveryOf(input.delivery),
  });
  if (container) describe(status, container, memory);
  else if (memory.ended && status.phase !== ContainerPhase.DELETING) status.exitCode = memory.ended.exitCode;

  if (problem) {
    // What runs goes on, and says why it is not (yet) what was asked for.
    const runs = status.phase === ContainerPhase.RUNNING || status.phase === ContainerPhase.PAUSED;
    if (!runs && status.phase !== ContainerPhase.DELETING) status.phase = ContainerPhase.FAILED;
    status.reason = problem.reason;
    status.message = problem.message;
    if (problem.retryTimeMs !== undefined) status.retryTime = timestampAt(problem.retryTimeMs);
  } else if (doing && status.phase !== ContainerPhase.RUNNING && status.phase !== ContainerPhase.PAUSED) {
    status.phase = doing === 'pulling' ? ContainerPhase.PULLING : ContainerPhase.CREATING;
    status.reason = '';
    status.message = '';
  }
  return status;
}

type Phase = Pick<ContainerStatus, 'phase' | 'reason' | 'message'>;

function phaseOf({ removing, spec, container, memory }: StatusInput): Phase {
  const plain = (phase: ContainerPhase): Phase => ({ phase, reason: '', message: '' });
  if (removing) return plain(ContainerPhase.DELETING);
  if (!spec) return plain(ContainerPhase.FAILED);
  const stopped = powerOf(spec) === 'stopped';
  if (!container) {
    // Ended by itself and removed by somebody since.
    if (memory.ended?.by === 'itself') return ended(memory.ended);
    return plain(ContainerPhase.CREATING);
  }
  switch (container.state) {
    case 'running':
      if (container.health !== 'unhealthy') return plain(ContainerPhase.RUNNING);
      return { phase: ContainerPhase.RUNNING, reason: 'Unhealthy', message: 'its health check fails' };
    case 'paused':
      return plain(ContainerPhase.PAUSED);
    case 'restarting': {
      const oom = ranOut(container, memory);
      return {
        phase: ContainerPhase.FAILED,
        reason: oom ? 'OutOfMemory' : 'Restarting',
        message: `it ended with exit code ${container.exitCode}${oom ? ', out of memory' : ''}, and is started again after a while`,
      };
    }
    case 'created':
      return plain(stopped ? ContainerPhase.STOPPED : ContainerPhase.CREATING);
    default:
      if (stopped) return plain(ContainerPhase.STOPPED);
      if (!hasFinished(spec, container, memory)) return plain(ContainerPhase.CREATING);
      return ended({ exitCode: container.exitCode, oomKilled: ranOut(container, memory) });
  }
}

function ended({ exitCode, oomKilled }: Pick<Ending, 'exitCode' | 'oomKilled'>): Phase {
  if (oomKilled) {
    return {
      phase: ContainerPhase.FAILED,
      reason: 'OutOfMemory',
      message: 'it used more memory than its limit, and was killed',
    };
  }
  if (exitCode === 0) return { phase: ContainerPhase.SUCCEEDED, reason: 'Completed', message: 'it ended by itself' };
  return { phase: ContainerPhase.FAILED, reason: 'Error', message: `it ended by itself with exit code ${exitCode}` };
}

const healths = {
  none: HealthState.NONE,
  starting: HealthState.STARTING,
  healthy: HealthState.HEALTHY,
  unhealthy: HealthState.UNHEALTHY,
} as const;

const protocols = { tcp: PortProtocol.TCP, udp: PortProtocol.UDP, sctp: PortProtocol.SCTP } as const;

const killedExitCode = 137;

/**
 * Whether its last run ended for want of memory. Engines lose their own note and their event of it when they hear of the end first. But who
 * has a limit and was killed, and by nobody through the engine, was killed by the kernel: from inside, its first process cannot be.
 */
const ranOut = ({ id, state, oomKilled, exitCode, memoryBytes }: EngineContainer, { ended }: ObjectMemory): boolean => {
  if (oomKilled) return true;
  if ((state !== 'exited' && state !== 'restarting') || ended?.containerId !== id) return false;
  return ended.oomKilled || (ended.by === 'itself' && memoryBytes > 0 && exitCode === killedExitCode);
};

function describe(status: ContainerStatus, container: EngineContainer, memory: ObjectMemory): void {
  const { restarts, ended } = memory;
  status.containerId = container.id;
  status.imageId = container.imageId;
  // While it runs the engine no longer has the exit code of the run before.
  if (container.state === 'exited' || container.state === 'restarting') status.exitCode = container.exitCode;
  else if (ended?.containerId === container.id) status.exitCode = ended.exitCode;
  status.restarts = container.restartCount + (restarts?.containerId === container.id ? restarts.count : 0);
  status.outOfMemory = ranOut(container, memory);
  status.health = healths[container.health];
  if (container.startedMs !== undefined) status.startTime = timestampAt(container.startedMs);
  if (container.finishedMs !== undefined) status.finishTime = timestampAt(container.finishedMs);
  status.ports = container.ports.map((port) =>
    create(PortMappingSchema, { ...port, protocol: protocols[port.protocol] }),
  );
}
