import { createHash } from 'node:crypto';
import { clone, toJson } from '@bufbuild/protobuf';
import { durationMs } from '@bufbuild/protobuf/wkt';
import {
  type ContainerSpec,
  ContainerSpecSchema,
  PowerState,
  PullPolicy,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { canonicalJson } from '../canonical_json.ts';
import type { EngineRestart } from '../drivers/driver.ts';

/** How a ContainerSpec is read: its defaults, and which of its fields need a new container when they change. */

const defaultStopTimeoutSeconds = 10;

/** In whole seconds, as engines count it; a fraction is rounded up. */
export const stopTimeoutSeconds = (spec: ContainerSpec): number =>
  spec.stopTimeout ? Math.max(0, Math.ceil(durationMs(spec.stopTimeout) / 1000)) : defaultStopTimeoutSeconds;

export function restartOf(spec: ContainerSpec): EngineRestart {
  switch (spec.restartPolicy) {
    case RestartPolicy.NEVER:
      return { policy: 'no', maxRetries: 0 };
    case RestartPolicy.ON_FAILURE:
      return { policy: 'on-failure', maxRetries: spec.restartMaxRetries };
    default:
      return { policy: 'unless-stopped', maxRetries: 0 };
  }
}

/** Whether an end by itself is the end. */
export const mayEnd = (spec: ContainerSpec): boolean =>
  spec.restartPolicy === RestartPolicy.NEVER || spec.restartPolicy === RestartPolicy.ON_FAILURE;

export type Power = 'running' | 'stopped' | 'paused';
export const powerOf = (spec: ContainerSpec): Power =>
  spec.powerState === PowerState.STOPPED ? 'stopped' : spec.powerState === PowerState.PAUSED ? 'paused' : 'running';

export type Pull = 'if-not-present' | 'always' | 'never';
export const pullOf = (spec: ContainerSpec): Pull =>
  spec.pullPolicy === PullPolicy.ALWAYS ? 'always' : spec.pullPolicy === PullPolicy.NEVER ? 'never' : 'if-not-present';

/** 0: no limit. */
export const nanoCpusOf = (spec: ContainerSpec): number => Number(spec.resources?.cpuMillis ?? 0n) * 1e6;
export const memoryOf = (spec: ContainerSpec): number => Number(spec.resources?.memoryBytes ?? 0n);

/**
 * Hash of the fields that need a new container, 32 hexadecimal digits. Fields that are unset do not enter into it, so that a field added to
 * the contract later replaces no container.
 *
 * Throws on a spec that has no JSON form (a duration out of range).
 */
export function specHash(spec: ContainerSpec): string {
  const lasting = clone(ContainerSpecSchema, spec);
  // These are changed in place, or say how to get to the spec and not what it is.
  lasting.restartPolicy = RestartPolicy.UNSPECIFIED;
  lasting.restartMaxRetries = 0;
  lasting.resources = undefined;
  lasting.powerState = PowerState.UNSPECIFIED;
  lasting.pullPolicy = PullPolicy.UNSPECIFIED;
  lasting.reboots = 0n;
  lasting.stopTimeout = undefined;
  lasting.node = '';
  return createHash('sha256')
    .update(canonicalJson(toJson(ContainerSpecSchema, lasting)))
    .digest('hex')
    .slice(0, 32);
}
