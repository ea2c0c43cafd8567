import type { ContainerSpec } from '../../proto/gen/baykeeper/v1/container_pb.js';
import type { EngineContainer, UpdateRequest } from '../drivers/driver.ts';
import type { Pull } from './container_spec.ts';

/** One change of the engine, or of what is kept in mind, for one object. */
export type Step = { readonly uid: string } & (
  | { readonly kind: 'pull'; readonly image: string; readonly policy: Pull }
  | {
      readonly kind: 'create';
      readonly name: string;
      readonly spec: ContainerSpec;
      readonly labels: Readonly<Record<string, string>>;
    }
  | { readonly kind: 'update'; readonly id: string; readonly change: UpdateRequest }
  | { readonly kind: 'rename'; readonly id: Target; readonly name: string }
  | { readonly kind: 'start'; readonly id: Target }
  | { readonly kind: 'stop'; readonly id: string; readonly timeoutSeconds: number | undefined }
  | { readonly kind: 'pause'; readonly id: Target }
  | { readonly kind: 'unpause'; readonly id: string }
  | { readonly kind: 'remove'; readonly id: string }
  /** Before a reboot ends this run. */
  | { readonly kind: 'begin-reboot'; readonly reboots: bigint; readonly startedMs: number }
  | { readonly kind: 'end-reboot'; readonly reboots: bigint }
  /** It ended by itself, and is to be stopped: from here on it may be started again. */
  | { readonly kind: 'forget-end' }
);
export type StepKind = Step['kind'];

/** The engine's id; or the container that the `create` before it made. */
export type Target = string | typeof created;
export const created: unique symbol = Symbol('created');

/** None for one that does not run. */
export function stopSteps(uid: string, container: EngineContainer, timeoutSeconds: number | undefined): Step[] {
  const steps: Step[] = [];
  // What is frozen cannot hear that it is asked to stop.
  if (container.state === 'paused') steps.push({ kind: 'unpause', uid, id: container.id });
  if (container.state === 'running' || container.state === 'paused' || container.state === 'restarting') {
    steps.push({ kind: 'stop', uid, id: container.id, timeoutSeconds });
  }
  return steps;
}
