import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import type {
  ContainerService,
  ExecuteRequest,
  ExecuteResponse,
  ExecuteStart,
  LogsRequest,
  LogsResponse,
} from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { InvalidError, PreconditionError, UnavailableError } from '../domain/errors.ts';
import { applyPower, type PowerOperation } from '../domain/lifecycle.ts';
import { silence } from '../domain/present.ts';
import type { Principal } from '../domain/principal.ts';
import { decode } from '../domain/record.ts';
import type { ExecuteInput, Liveness, Streams, StreamTarget } from '../reconcile/port.ts';
import { principalOf } from './call.ts';
import { refOf } from './kind_services.ts';
import type { ObjectRef } from './object_location.ts';
import type { Objects } from './objects.ts';

/** What the methods that only containers have need. */
export interface ContainerOptions {
  readonly objects: Objects;
  readonly liveness: Liveness;
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
      const target = await streamTarget(options, principalOf(context), refOf(request));
      // Neither set means both; the agent is told which.
      const both = !request.stdout && !request.stderr;
      const asked = both ? Object.assign(request, { stdout: true, stderr: true }) : request;
      yield* streams.logs(target, asked, context.signal);
    },

    async *execute(requests: AsyncIterable<ExecuteRequest>, context: HandlerContext): AsyncGenerator<ExecuteResponse> {
      const principal = principalOf(context);
      const input = requests[Symbol.asyncIterator]();
      const start = await startOf(input);
      const target = await streamTarget(options, principal, refOf(start));
      yield* streams.execute(target, start, inputsOf(input), context.signal);
    },
  };
}

async function startOf(input: AsyncIterator<ExecuteRequest>): Promise<ExecuteStart> {
  const first = await input.next();
  const start = first.done ? undefined : first.value.input;
  if (start?.case !== 'start') throw new InvalidError('start', 'must be the first message: it says what to run');
  return start.value;
}

async function* inputsOf(input: AsyncIterator<ExecuteRequest>): AsyncGenerator<ExecuteInput> {
  for (;;) {
    const { done, value } = await input.next();
    if (done) return;
    const message = (value as ExecuteRequest).input;
    if (message.case === 'start') throw new InvalidError('start', 'can only be the first message');
    if (message.case !== undefined) yield message;
  }
}

/** Where the stream of a container leads. Says at once when nobody would answer there. */
async function streamTarget(options: ContainerOptions, principal: Principal, ref: ObjectRef): Promise<StreamTarget> {
  const stored = await options.objects.find(principal, 'Container', ref);
  const { status } = decode('Container', stored);
  if (!stored.nodeUid) {
    throw new PreconditionError(
      `container "${stored.name}" is on no node yet: ${status?.message || 'it waits for one'}`,
    );
  }
  const nodeName = status?.node ?? '';
  const live = options.liveness.node(stored.nodeUid);
  if (!live?.fresh) throw new UnavailableError(silence(nodeName, live));
  return { bayUid: stored.bayUid, nodeUid: stored.nodeUid, nodeName, objectUid: stored.uid };
}
