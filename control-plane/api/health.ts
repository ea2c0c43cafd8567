import { create } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import {
  type Health,
  type HealthCheckResponse,
  HealthCheckResponseSchema,
  HealthCheckResponse_ServingStatus as Status,
} from '../../proto/gen/health/v1/health_pb.js';
import { NotFoundError } from '../domain/errors.ts';

/** Whether each thing that we depend on is there now: `store`, `broker`. */
export type Dependencies = Readonly<Record<string, () => boolean>>;

/** What health needs. */
export interface HealthOptions {
  readonly dependencies: Dependencies;
  /** Full names of the services that are served: as healthy as all that we depend on. */
  readonly services: readonly string[];
  /** How often a watch looks. Default 1 s. */
  readonly watchIntervalMs?: number;
}

/** grpc.health.v1. The empty name means everything. */
export function healthMethods(options: HealthOptions): ServiceImpl<typeof Health> {
  const { dependencies } = options;
  const services = new Set(['', ...options.services]);
  const statusOf = (service: string): Status | undefined => {
    if (services.has(service)) return toStatus(Object.values(dependencies).every((isUp) => isUp()));
    const dependency = Object.hasOwn(dependencies, service) ? dependencies[service] : undefined;
    return dependency && toStatus(dependency());
  };
  return {
    check({ service }) {
      const status = statusOf(service);
      if (status === undefined) throw new NotFoundError(`there is no service "${service}"`);
      return { status };
    },
    list: () => ({
      statuses: Object.fromEntries(
        [...services, ...Object.keys(dependencies)].map((name) => [name, answer(statusOf(name))]),
      ),
    }),
    async *watch({ service }, { signal }) {
      let last: Status | undefined;
      while (!signal.aborted) {
        const status = statusOf(service) ?? Status.SERVICE_UNKNOWN;
        if (status !== last) yield answer(status);
        last = status;
        await pause(options.watchIntervalMs ?? 1000, signal);
      }
    },
  };
}

const toStatus = (isUp: boolean): Status => (isUp ? Status.SERVING : Status.NOT_SERVING);
const answer = (status: Status | undefined): HealthCheckResponse => create(HealthCheckResponseSchema, { status });

/** Resolves after the time, or when nobody listens any more. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    timer.unref();
    signal.addEventListener('abort', done, { once: true });
  });
}
