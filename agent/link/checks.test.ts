import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import test from 'ava';
import { AssignmentOp, CheckReplySchema, CheckRequestSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { TestSigner, testNonce, testSigner, testVerifier } from '../../test/harness/signing.ts';
import { silentLog } from '../log.ts';
import { type Cluster, StreamError, type Verdict } from '../ports.ts';
import { Checks } from './checks.ts';
import type { LinkMessage } from './link.ts';

const address = { bayUid: 'b', nodeUid: 'n' };
const sealed = (request: Uint8Array) => testSigner.seal({ ...address, purpose: 'check', nonce: testNonce }, request);
const request = toBinary(
  CheckRequestSchema,
  create(CheckRequestSchema, {
    assignment: { uid: 'p', kind: Kind.POD, op: AssignmentOp.PUT, spec: { case: 'pod', value: {} } },
  }),
);

function bed(check: (() => Promise<Verdict>) | undefined, { maxPayloadBytes = 1 << 20, maxChecks = 32 } = {}) {
  let listener: (message: LinkMessage) => void = () => undefined;
  const cluster = check && ({ check } as unknown as Cluster);
  const link = {
    maxPayloadBytes,
    subscribe: (_subject: string, take: typeof listener) => {
      listener = take;
    },
  };
  const verifier = testVerifier(address);
  new Checks({
    address,
    link,
    workloads: { cluster },
    verifier,
    session: () => testNonce,
    log: silentLog,
    maxChecks,
  }).start();
  return (data: Uint8Array = request, seal = sealed) =>
    new Promise<ReturnType<typeof read>>((resolve) => {
      listener({ subject: '', data: seal(data), respond: (reply) => resolve(read(reply)) });
    });
}
const read = (reply: Uint8Array) => fromBinary(CheckReplySchema, reply);

test("the cluster's verdict goes back, and so does why there is none", async (t) => {
  const refusal = { code: 3, reason: 'Invalid', message: 'no', field: 'spec.x' };
  t.like((await bed(async () => ({ refusal }))()).refusal, refusal);
  t.like(await bed(async () => ({ live: { a: 1 }, merged: { a: 2 } }))(), { live: { a: 1 }, merged: { a: 2 } });
  const away = bed(() => Promise.reject(new StreamError('engine-unavailable', 'the API server is away')));
  t.like((await away()).error, { code: 14, message: 'the API server is away' });
  t.is((await bed(() => Promise.reject(new Error('a bug')))()).error?.code, 13);
  t.is((await bed(undefined)()).error?.code, 12);
});

test('what is no request is refused, and so is more than can be done', async (t) => {
  const ended = Promise.withResolvers<Verdict>();
  const ask = bed(() => ended.promise, { maxChecks: 1 });
  t.is((await ask(Buffer.from('garbage'))).error?.code, 3);
  t.is((await ask(new Uint8Array())).error?.code, 3);
  const first = ask();
  t.is((await ask()).error?.code, 8);
  ended.resolve({});
  t.is((await first).error, undefined);
  t.is((await ask()).error, undefined, 'there is room again');
});

test('nobody but the control plane asks the cluster, and in this session only', async (t) => {
  let asked = 0;
  const ask = bed(async () => {
    asked += 1;
    return {};
  });
  const context = { ...address, purpose: 'check', nonce: testNonce } as const;
  for (const seal of [
    (data: Uint8Array) => data,
    (data: Uint8Array) => new TestSigner(8).seal(context, data),
    (data: Uint8Array) => testSigner.seal({ ...context, nonce: new Uint8Array(16) }, data),
    (data: Uint8Array) => testSigner.seal({ ...context, nodeUid: 'other' }, data),
  ]) {
    t.is((await ask(request, seal)).error?.code, 14);
  }
  t.is(asked, 0);
  t.is((await ask()).error, undefined);
  t.is(asked, 1);
});

test('copies that do not fit into a message are left out, the verdict is not', async (t) => {
  const large = { text: 'x'.repeat(2_000) };
  const reply = await bed(async () => ({ live: large, merged: large }), { maxPayloadBytes: 1_000 })();
  t.is(reply.error, undefined);
  t.is(reply.live, undefined);
  t.is(reply.merged, undefined);
});
