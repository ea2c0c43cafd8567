import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import test from 'ava';
import {
  type Frame,
  FrameSchema,
  SignedSchema,
  type StreamOpen,
  StreamOpenReplySchema,
  StreamOpenSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ExecuteStartSchema, LogsRequestSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { upStreamSubject } from '../../proto/subjects.ts';
import { testNonce, testSigner } from '../../test/harness/signing.ts';
import { nobody } from '../audit/port.ts';
import type { Bus, BusMessage } from '../broker/port.ts';
import { NotFoundError, UnavailableError } from '../domain/errors.ts';
import type { ExecuteInput } from './port.ts';
import { StreamRelay, type StreamRelayOptions } from './stream_relay.ts';

const call = { ...nobody, method: 'baykeeper.v1.ContainerService/Logs', subject: 'rose' };
const target = { bayUid: 'bay', nodeUid: 'node', nodeName: 'n1', objectUid: 'object', call };
type Body = NonNullable<MessageInitShape<typeof FrameSchema>['body']>;

const payloadOf = (sealed: Uint8Array) => fromBinary(SignedSchema, sealed).payload;

/** The agent's side, scripted: faults that no real agent makes on request. */
function agent(
  options: { error?: { code: Code; message: string }; silent?: boolean; relay?: Partial<StreamRelayOptions> } = {},
) {
  const listeners = new Map<string, (message: BusMessage) => void>();
  const received: Frame[] = [];
  let opened: StreamOpen | undefined;
  let sequence = 0;
  const bus: Bus = {
    connected: true,
    maxPayloadBytes: 1 << 20,
    publish: (_subject, data) => received.push(fromBinary(FrameSchema, payloadOf(data))),
    request: async (_subject, data) => {
      opened = fromBinary(StreamOpenSchema, payloadOf(data));
      const { error, silent } = options;
      if (silent) return new Promise(() => undefined);
      return toBinary(StreamOpenReplySchema, create(StreamOpenReplySchema, { error, creditBytes: 100_000 }));
    },
    subscribe: (subject, listener) => {
      listeners.set(subject, listener);
      return { unsubscribe: () => listeners.delete(subject) };
    },
    onConnected: () => () => undefined,
  };
  const deliver = (data: Uint8Array) => {
    const subject = upStreamSubject(target, opened?.streamId ?? '');
    listeners.get(subject)?.({ subject, data, respond: () => undefined });
  };
  return {
    relay: new StreamRelay({ bus, signer: testSigner, sessionOf: () => testNonce, ...options.relay }),
    received,
    listeners,
    deliver,
    send: (body: Body, at = sequence++) => deliver(toBinary(FrameSchema, create(FrameSchema, { sequence: at, body }))),
    cases: () => received.map((frame) => frame.body.case),
  };
}

const logs = (relay: StreamRelay, signal = new AbortController().signal) =>
  relay.logs(target, create(LogsRequestSchema), signal)[Symbol.asyncIterator]();
const text = (value: string) => new TextEncoder().encode(value);
const turn = () => new Promise((resolve) => setImmediate(resolve));

test('output comes in order, and the end ends it', async (t) => {
  const { relay, send, listeners, cases } = agent();
  const lines = logs(relay);
  const first = lines.next();
  await turn();
  send({ case: 'stdout', value: text('a') });
  send({ case: 'stderr', value: text('b') });
  send({ case: 'end', value: {} });
  t.deepEqual((await first).value?.output, { case: 'stdout', value: text('a') });
  t.deepEqual((await lines.next()).value?.output, { case: 'stderr', value: text('b') });
  t.true((await lines.next()).done);
  t.is(listeners.size, 0);
  t.is(relay.open, 0);
  t.false(cases().includes('end'), 'the agent has ended it itself');
});

test('what an agent refuses is told apart from an agent that is away', async (t) => {
  for (const [code, name] of [
    [Code.NotFound, 'NotFoundError'],
    [Code.FailedPrecondition, 'PreconditionError'],
    [Code.PermissionDenied, 'DeniedError'],
    [Code.Unavailable, 'UnavailableError'],
  ] as const) {
    const { relay, send } = agent();
    const first = logs(relay).next();
    await turn();
    send({ case: 'end', value: { error: { code, message: 'because' } } });
    await t.throwsAsync(first, { name, message: 'because' });
  }
});

test('room is given back only for what the caller has taken', async (t) => {
  const { relay, send, cases } = agent({ relay: { windowBytes: 400 } });
  const lines = logs(relay);
  const first = lines.next();
  await turn();
  for (let i = 0; i < 4; i += 1) send({ case: 'stdout', value: new Uint8Array(100) });
  await first;
  await turn();
  t.deepEqual(cases(), []);
  await lines.next();
  t.deepEqual(cases(), ['creditBytes']);
  await lines.return?.();
});

test('an agent that sends without end is cut off', async (t) => {
  const { relay, send } = agent({ relay: { windowBytes: 400 } });
  const lines = logs(relay);
  const first = lines.next();
  await turn();
  for (let i = 0; i < 10; i += 1) send({ case: 'stdout', value: new Uint8Array(100) });
  await first;
  await t.throwsAsync(
    async () => {
      for (;;) if ((await lines.next()).done) return;
    },
    { instanceOf: UnavailableError, message: /more than it was given room for/ },
  );
});

test('a lost frame and a frame that is none end the stream with an error', async (t) => {
  for (const fault of ['gap', 'garbage']) {
    const { relay, send, deliver, listeners } = agent();
    const lines = logs(relay);
    const first = lines.next();
    await turn();
    if (fault === 'gap') send({ case: 'stdout', value: text('b') }, 1);
    else deliver(new Uint8Array([255, 255, 255]));
    await t.throwsAsync(first, { instanceOf: UnavailableError });
    t.is(listeners.size, 0);
  }
});

test('a caller that goes away frees the agent', async (t) => {
  const { relay, cases, listeners } = agent();
  const abort = new AbortController();
  const first = logs(relay, abort.signal).next();
  await turn();
  abort.abort();
  await t.throwsAsync(first);
  t.deepEqual(cases(), ['end']);
  t.is(listeners.size, 0);
  t.is(relay.open, 0);
});

test('what the agent refuses has its code', async (t) => {
  const { relay, cases } = agent({ error: { code: Code.NotFound, message: 'no such container' } });
  await t.throwsAsync(logs(relay).next(), { instanceOf: NotFoundError, message: 'no such container' });
  t.deepEqual(cases(), ['end']);
});

test('an agent that falls silent ends it', async (t) => {
  const { relay } = agent({ relay: { keepaliveMs: 10, silenceMs: 50 } });
  await t.throwsAsync(logs(relay).next(), { instanceOf: UnavailableError, message: /nothing was heard/ });
});

test('input waits for room, and the exit code comes last', async (t) => {
  const { relay, received, send, cases } = agent();
  async function* input(): AsyncIterable<ExecuteInput> {
    yield { case: 'stdin', value: new Uint8Array(150_000) };
    yield { case: 'stdinEnd', value: true };
  }
  const output = relay
    .execute(target, create(ExecuteStartSchema, { command: ['cat'] }), input(), new AbortController().signal)
    [Symbol.asyncIterator]();
  const first = output.next();
  await turn();
  const sent = () => received.reduce((sum, { body }) => sum + (body.case === 'stdin' ? body.value.byteLength : 0), 0);
  t.is(sent(), 100_000);
  send({ case: 'creditBytes', value: 100_000 });
  await turn();
  t.is(sent(), 150_000);
  t.is(cases().at(-1), 'stdinEnd');
  send({ case: 'end', value: { exitCode: 7 } });
  t.deepEqual((await first).value?.output, { case: 'exitCode', value: 7 });
  t.true((await output.next()).done);
});

test('who ends the streams of a node learns whose they were, of each once', async (t) => {
  const { relay } = agent();
  const first = logs(relay).next();
  await turn();
  const reason = (name: string) => `node "${name}" was cut off`;
  t.deepEqual(relay.end('another', reason), []);
  t.deepEqual(relay.end(target.nodeUid, reason), [call]);
  t.deepEqual(relay.end(target.nodeUid, reason), []);
  await t.throwsAsync(first, { instanceOf: UnavailableError, message: 'node "n1" was cut off' });
});

test('when the agent is gone its streams end at once, also one that it has not opened yet', async (t) => {
  const { relay, listeners } = agent();
  const lines = logs(relay);
  const first = lines.next();
  await turn();
  relay.agentGone('another');
  t.is(relay.open, 1);
  relay.agentGone(target.nodeUid);
  await t.throwsAsync(first, { instanceOf: UnavailableError, message: /the agent of node "n1" has gone/ });
  t.is(listeners.size, 0);
  t.is(relay.open, 0);

  const silent = agent({ silent: true });
  const opening = logs(silent.relay).next();
  await turn();
  silent.relay.agentGone(target.nodeUid);
  await t.throwsAsync(opening, { instanceOf: UnavailableError, message: /the agent of node "n1" has gone/ });
  t.is(silent.relay.open, 0);
});
