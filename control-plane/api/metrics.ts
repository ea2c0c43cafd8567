import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

/** What the API counts. */
export interface ApiMetrics {
  /** A call has ended. `code`: as gRPC names it, `ok` when all went well. */
  called(method: string, code: string, durationMs: number, isStream: boolean): void;
  watching(delta: 1 | -1): void;
}

/** Counts into a Prometheus registry. */
export function createApiMetrics(registry: Registry): ApiMetrics {
  const calls = new Counter({
    name: 'baykeeper_api_requests_total',
    help: 'Calls that have ended, by method and code.',
    labelNames: ['method', 'code'] as const,
    registers: [registry],
  });
  const durations = new Histogram({
    name: 'baykeeper_api_request_duration_seconds',
    help: 'How long calls took, streams left out.',
    labelNames: ['method'] as const,
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
    registers: [registry],
  });
  const watches = new Gauge({
    name: 'baykeeper_api_watches',
    help: 'Watches that are open.',
    registers: [registry],
  });
  // Finding the child by its labels costs more than counting: they are few, and kept.
  const callsOf = new Map<string, ReturnType<typeof calls.labels>>();
  const durationsOf = new Map<string, ReturnType<typeof durations.labels>>();
  return {
    called(method, code, durationMs, isStream) {
      const key = `${method} ${code}`;
      let call = callsOf.get(key);
      if (!call) {
        call = calls.labels(method, code);
        callsOf.set(key, call);
      }
      call.inc();
      if (isStream) return;
      let duration = durationsOf.get(method);
      if (!duration) {
        duration = durations.labels(method);
        durationsOf.set(method, duration);
      }
      duration.observe(durationMs / 1000);
    },
    watching: (delta) => watches.inc(delta),
  };
}
