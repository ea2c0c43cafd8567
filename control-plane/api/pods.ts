import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import type {
  ExecutePodRequest,
  ExecutePodResponse,
  ExecutePodStart,
  PodLogsRequest,
  PodLogsResponse,
  PodService,
} from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import type { Streams } from '../reconcile/port.ts';
import { beginKey } from './audited_call.ts';
import { refOf } from './kind_services.ts';
import { inputsOf, type StreamTargetOptions, startOf, streamTarget } from './stream_calls.ts';

/** What the methods that only pods have need. */
export interface PodOptions extends StreamTargetOptions {
  readonly streams: Streams;
}

/** Logs and commands. */
export function podMethods(options: PodOptions): Pick<ServiceImpl<typeof PodService>, 'podLogs' | 'executePod'> {
  const { streams } = options;
  return {
    async *podLogs(request: PodLogsRequest, context: HandlerContext): AsyncGenerator<PodLogsResponse> {
      const target = await streamTarget(options, context, 'Pod', refOf(request));
      yield* streams.podLogs(target, request, context.signal);
    },

    async *executePod(
      requests: AsyncIterable<ExecutePodRequest>,
      context: HandlerContext,
    ): AsyncGenerator<ExecutePodResponse> {
      const input = requests[Symbol.asyncIterator]();
      const start = await startOf<ExecutePodStart>(input);
      const target = await streamTarget(options, context, 'Pod', refOf(start));
      await context.values.get(beginKey)();
      yield* streams.executePod(target, start, inputsOf(input), context.signal);
    },
  };
}
