import { create, type DescMessage, fromBinary, type MessageShape, toBinary } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import type { Logger } from 'pino';
import {
  type Error as BusError,
  ErrorReason,
  ErrorSchema,
  HeartbeatSchema,
  HelloReplySchema,
  HelloSchema,
  RenewReplySchema,
  RenewRequestSchema,
  ReportReplySchema,
  ReportSchema,
  SyncReplySchema,
  SyncRequestSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { Credentials } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { everyUpSubject, type NodeAddress, parseUpSubject, type UpVerb } from '../../proto/subjects.ts';
import type { Bus, BusMessage } from '../broker/port.ts';
import { DomainError } from '../domain/errors.ts';
import type { Dispatcher } from './dispatcher.ts';
import type { ReconcileMetrics } from './metrics.ts';
import { RefusedError } from './refused.ts';
import type { Reporting } from './reports.ts';
import { Semaphore } from './semaphore.ts';
import type { Sessions } from './sessions.ts';

/** Options of {@link startUplink}. */
export interface UplinkOptions {
  readonly bus: Bus;
  readonly sessions: Sessions;
  readonly dispatcher: Dispatcher;
  readonly reporting: Reporting;
  /** New credentials for a node. Throws RefusedError when it may have none. */
  readonly renew: (address: NodeAddress) => Promise<Credentials>;
  readonly log: Logger;
  readonly metrics?: Pick<ReconcileMetrics, 'reported'>;
  /** How many messages are worked on at a time; the rest waits on the bus's queue. Default 256. */
  readonly concurrency?: number;
}

type Handler<Request extends DescMessage> = (
  address: NodeAddress,
  request: MessageShape<Request>,
) => Promise<Uint8Array | undefined>;

/** Takes what agents send, and answers. Whatever comes, it is answered or logged, and ends nothing. Returns what ends it. */
export function startUplink(options: UplinkOptions): () => void {
  const { bus, sessions, dispatcher, reporting, log } = options;
  const turns = new Semaphore(options.concurrency ?? 256);

  const listen = <Request extends DescMessage>(
    verb: UpVerb,
    schema: Request,
    handler: Handler<Request>,
    refusal?: (error: BusError) => Uint8Array,
  ) => {
    const handle = async (message: BusMessage, address: NodeAddress) => {
      try {
        const reply = await handler(address, decode(schema, message.data));
        if (reply) message.respond(reply);
      } catch (error) {
        const refused = refusalOf(error);
        if (refused.reason === ErrorReason.RETRY) log.warn({ node: address.nodeUid, verb, error }, 'message not taken');
        else log.debug({ node: address.nodeUid, verb, reason: refused.message }, 'message refused');
        if (refusal) message.respond(refusal(refused));
      }
    };
    return bus.subscribe(everyUpSubject(verb), (message) => {
      const address = parseUpSubject(message.subject);
      // Not awaited: a slow one must not hold up those of other nodes behind it.
      if (address?.verb === verb) void turns.run(() => handle(message, address));
    });
  };

  const subscriptions = [
    listen(
      'hello',
      HelloSchema,
      async (address, hello) => toBinary(HelloReplySchema, await sessions.hello(address, hello)),
      (error) => toBinary(HelloReplySchema, create(HelloReplySchema, { error })),
    ),
    listen(
      'sync',
      SyncRequestSchema,
      async (address, request) => {
        await sessions.check(address, Number(request.epoch));
        const revision = await dispatcher.sync(address.nodeUid, {
          appliedRevision: Number(request.appliedRevision),
          digest: request.digest,
        });
        return toBinary(SyncReplySchema, create(SyncReplySchema, { revision: BigInt(revision) }));
      },
      (error) => toBinary(SyncReplySchema, create(SyncReplySchema, { error })),
    ),
    listen('heartbeat', HeartbeatSchema, async (address, heartbeat) => {
      await sessions.heartbeat(address, heartbeat);
      return undefined;
    }),
    listen(
      'report',
      ReportSchema,
      async (address, report) => {
        await sessions.check(address, Number(report.epoch));
        const reply = await reporting.take(address, report);
        options.metrics?.reported('taken', report.objects.length);
        return toBinary(ReportReplySchema, reply);
      },
      (error) => {
        options.metrics?.reported('refused', 0);
        return toBinary(ReportReplySchema, create(ReportReplySchema, { error }));
      },
    ),
    listen(
      'renew',
      RenewRequestSchema,
      async (address, request) => {
        await sessions.check(address, Number(request.epoch));
        return toBinary(RenewReplySchema, create(RenewReplySchema, { credentials: await options.renew(address) }));
      },
      (error) => toBinary(RenewReplySchema, create(RenewReplySchema, { error })),
    ),
  ];
  return () => {
    for (const subscription of subscriptions) subscription.unsubscribe();
  };
}

function decode<Desc extends DescMessage>(schema: Desc, data: Uint8Array): MessageShape<Desc> {
  try {
    return fromBinary(schema, data);
  } catch (error) {
    throw new RefusedError(
      ErrorReason.INVALID,
      `not a ${schema.name}: ${error instanceof Error ? error.message : error}`,
    );
  }
}

const codes: Partial<Record<ErrorReason, Code>> = {
  [ErrorReason.FENCED]: Code.Aborted,
  [ErrorReason.INVALID]: Code.InvalidArgument,
  [ErrorReason.REVOKED]: Code.PermissionDenied,
  [ErrorReason.DUPLICATE]: Code.AlreadyExists,
};

function refusalOf(error: unknown): BusError {
  if (error instanceof RefusedError) {
    return create(ErrorSchema, {
      code: codes[error.reason] ?? Code.Unavailable,
      reason: error.reason,
      message: error.message,
    });
  }
  // What went wrong inside is not the agent's to know; that it may try again is.
  const message = error instanceof DomainError ? error.message : 'the control plane cannot do this now';
  return create(ErrorSchema, { code: Code.Unavailable, reason: ErrorReason.RETRY, message });
}
