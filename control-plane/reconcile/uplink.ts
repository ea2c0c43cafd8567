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
import { isNonce, type SignedPurpose } from '../../proto/signing.ts';
import { everyUpSubject, type NodeAddress, parseUpSubject, type UpVerb } from '../../proto/subjects.ts';
import type { Bus, BusMessage, MessageSigner } from '../broker/port.ts';
import { DomainError } from '../domain/errors.ts';
import { type RateLimit, TokenBuckets } from '../domain/token_bucket.ts';
import type { Dispatcher } from './dispatcher.ts';
import type { ReconcileMetrics } from './metrics.ts';
import { RefusedError } from './refused.ts';
import type { Reporting } from './reports.ts';
import { Semaphore } from './semaphore.ts';
import type { Sessions } from './sessions.ts';

/** Options of {@link startUplink}. */
export interface UplinkOptions {
  readonly bus: Bus;
  readonly signer: Pick<MessageSigner, 'seal'>;
  readonly sessions: Sessions;
  readonly dispatcher: Dispatcher;
  readonly reporting: Reporting;
  /** New credentials for a node. Throws RefusedError when it may have none. */
  readonly renew: (address: NodeAddress) => Promise<Credentials>;
  /** Of the TrustBundle that agents should have, which they ask for when it is another one. Default: empty, that nobody asks for. */
  readonly trustDigest?: () => Uint8Array;
  readonly log: Logger;
  readonly metrics?: Pick<ReconcileMetrics, 'reported'>;
  /** How many messages are worked on at a time; the rest waits on the bus's queue. Default 256. */
  readonly concurrency?: number;
}

/** What is done with one kind of message. */
interface Handler<Request extends DescMessage> {
  readonly verb: UpVerb;
  /** Of one node; more is dropped, as if it had been lost. Far above what agents send, who have one request under way at a time. */
  readonly limit?: RateLimit;
  readonly schema: Request;
  /** Resolves with the answer; undefined: there is none. */
  readonly take: (address: NodeAddress, request: MessageShape<Request>) => Promise<Uint8Array | undefined>;
  /** The answer of a refusal. Default: none. */
  readonly refusal?: (error: BusError) => Uint8Array;
  /** How the answer is signed, and what it is an answer to. Default: it is not. */
  readonly sealed?: { readonly purpose: SignedPurpose; readonly nonce: (request: MessageShape<Request>) => Uint8Array };
}

/** Takes what agents send, and answers. Whatever comes, it is answered or logged, and ends nothing. Returns what ends it. */
export function startUplink(options: UplinkOptions): () => void {
  const { bus, signer, sessions, dispatcher, reporting, log, trustDigest = () => new Uint8Array() } = options;
  const turns = new Semaphore(options.concurrency ?? 256);

  const listen = <Request extends DescMessage>(handler: Handler<Request>) => {
    const { verb, schema, take, refusal, sealed, limit = { perSecond: 200, burst: 2_000 } } = handler;
    // Of the machine and not of the clock: it is about load.
    const buckets = new TokenBuckets(limit, { now: () => performance.now() });
    const handle = async (message: BusMessage, address: NodeAddress) => {
      let answer = (reply: Uint8Array) => message.respond(reply);
      try {
        // What cannot be read says nothing that the answer could be bound to, so it gets none.
        if (sealed) answer = () => undefined;
        const request = decode(schema, message.data);
        if (sealed) {
          const nonce = sealed.nonce(request);
          if (!isNonce(nonce)) throw new RefusedError(ErrorReason.INVALID, `a nonce of ${nonce.byteLength} bytes`);
          const context = { ...address, purpose: sealed.purpose, nonce };
          answer = (reply) => message.respond(signer.seal(context, reply));
        }
        const reply = await take(address, request);
        if (reply) answer(reply);
      } catch (error) {
        const refused = refusalOf(error);
        if (refused.reason === ErrorReason.RETRY) log.warn({ node: address.nodeUid, verb, error }, 'message not taken');
        else log.debug({ node: address.nodeUid, verb, reason: refused.message }, 'message refused');
        if (refusal) answer(refusal(refused));
      }
    };
    return bus.subscribe(everyUpSubject(verb), (message) => {
      const parsed = parseUpSubject(message.subject);
      if (parsed?.verb !== verb) return undefined;
      const { bayUid, nodeUid } = parsed;
      if (!buckets.take(nodeUid)) return undefined;
      // The bus has the next one of this node wait for it, and no other node's: who sends more than is taken waits, and in the end is not heard.
      return turns.run(() => handle(message, { bayUid, nodeUid }));
    });
  };

  const subscriptions = [
    listen({
      verb: 'hello',
      limit: { perSecond: 5, burst: 200 },
      schema: HelloSchema,
      take: async (address, hello) => {
        return toBinary(HelloReplySchema, await sessions.hello(address, hello));
      },
      refusal: (error) => toBinary(HelloReplySchema, create(HelloReplySchema, { error })),
      sealed: { purpose: 'hello-reply', nonce: ({ session }) => session },
    }),
    listen({
      verb: 'sync',
      schema: SyncRequestSchema,
      take: async (address, request) => {
        await sessions.check(address, request);
        const revision = await dispatcher.sync(address.nodeUid, {
          appliedRevision: Number(request.appliedRevision),
          digest: request.digest,
        });
        return toBinary(SyncReplySchema, create(SyncReplySchema, { revision: BigInt(revision) }));
      },
      refusal: (error) => toBinary(SyncReplySchema, create(SyncReplySchema, { error })),
      sealed: { purpose: 'sync-reply', nonce: ({ nonce }) => nonce },
    }),
    listen({
      verb: 'heartbeat',
      schema: HeartbeatSchema,
      take: async (address, heartbeat) => {
        await sessions.heartbeat(address, heartbeat);
        return undefined;
      },
    }),
    listen({
      verb: 'report',
      schema: ReportSchema,
      take: async (address, report) => {
        await sessions.check(address, report);
        const reply = await reporting.take(address, report);
        options.metrics?.reported('taken', report.objects.length);
        return toBinary(ReportReplySchema, reply);
      },
      refusal: (error) => {
        options.metrics?.reported('refused', 0);
        return toBinary(ReportReplySchema, create(ReportReplySchema, { error }));
      },
    }),
    listen({
      verb: 'renew',
      schema: RenewRequestSchema,
      take: async (address, request) => {
        await sessions.check(address, request);
        return toBinary(
          RenewReplySchema,
          create(RenewReplySchema, { credentials: await options.renew(address), trustDigest: trustDigest() }),
        );
      },
      refusal: (error) => toBinary(RenewReplySchema, create(RenewReplySchema, { error })),
      sealed: { purpose: 'renew-reply', nonce: ({ nonce }) => nonce },
    }),
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
