import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import type {
  ContainerService,
  ExecuteRequest,
  ExecuteResponse,
  ExecuteStart,
  LogsRequest,
  LogsResponse,
} from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { applyPower, type PowerOperation } from '../domain/lifecycle.ts';
import type { Streams } from '../reconcile/port.ts';
import { beginKey } from './audited_call.ts';
import { principalOf } from './call.ts';
import { refOf } from './kind_services.ts';
import { inputsOf, type StreamTargetOptions, startOf, streamTarget } from './stream_calls.ts';

/** What the methods that only containers have need. */
export interface ContainerOptions extends StreamTargetOptions {
  readonly streams: Streams;
}

type PowerRequest = Parameters<typeof refOf>[0] & { readonly etag: string };
type Methods = Pick<
  ServiceImpl<typeof ContainerService>,
  'startContainer' | 'stopContainer' | 'pauseContainer' | 'unpauseContainer' | 'rebootContainer' | 'logs' | 'execute'
>;

/** Power, logs and commands. */
export function containerMethods(options: ContainerOptions): Methods {
  const { objects, streams } = options;
  const power = (operation: PowerOperation) => async (request: PowerRequest, context: HandlerContext) => ({
    container: await objects.change(
      principalOf(context),
      'Container',
      refOf(request),
      request.etag,
      (spec, container) => {
        applyPower(spec, operation, container.metadata?.name ?? '');
      },
    ),
  });
  return {
    startContainer: power('start'),
    stopContainer: power('stop'),
    pauseContainer: power('pause'),
    unpauseContainer: power('unpause'),
    rebootContainer: power('reboot'),

    async *logs(request: LogsRequest, context: HandlerContext): AsyncGenerator<LogsResponse> {
      const target = await streamTarget(options, context, 'Container', refOf(request));
      // Neither set means both; the agent is told which.
      const both = !request.stdout && !request.stderr;
      const asked = both ? Object.assign(request, { stdout: true, stderr: true }) : request;
      yield* streams.logs(target, asked, context.signal);
    },

    async *execute(requests: AsyncIterable<ExecuteRequest>, context: HandlerContext): AsyncGenerator<ExecuteResponse> {
      const input = requests[Symbol.asyncIterator]();
      const start = await startOf<ExecuteStart>(input);
      const target = await streamTarget(options, context, 'Container', refOf(start));
      await context.values.get(beginKey)();
      yield* streams.execute(target, start, inputsOf(input), context.signal);
    },
  };
}
