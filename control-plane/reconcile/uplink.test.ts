import { randomBytes } from 'node:crypto';
import { create, toBinary } from '@bufbuild/protobuf';
import test from 'ava';
import { pino } from 'pino';
import { HelloReplySchema, HelloSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type NodeAddress, upSubject } from '../../proto/subjects.ts';
import { testSigner } from '../../test/harness/signing.ts';
import { until } from '../../test/harness/until.ts';
import type { BusMessage } from '../broker/port.ts';
import { SubjectLanes } from '../broker/subject_lanes.ts';
import { startUplink, type UplinkOptions } from './uplink.ts';

const log = pino({ level: 'silent' });
const limits = { messagesPerSubject: 4096, bytesPerSubject: 1e6, messages: 65_536, bytes: 64 * 1024 * 1024 };
const evil = { bayUid: 'bay-1', nodeUid: 'evil' };
const good = { bayUid: 'bay-1', nodeUid: 'good' };

/** An uplink whose sessions are begun by `hello`. */
function fixture(hello: (address: NodeAddress) => Promise<void>) {
  const lanes = new Map<string, SubjectLanes<BusMessage>>();
  const bus = {
    subscribe(subject: string, listener: (message: BusMessage) => void | Promise<void>) {
      lanes.set(subject, new SubjectLanes({ listener, limits, log, clock: Date }));
      return { unsubscribe: () => undefined };
    },
  };
  const sessions = {
    async hello(address: NodeAddress) {
      await hello(address);
      return create(HelloReplySchema, { epoch: 1n });
    },
  };
  const options = { bus, sessions, signer: testSigner, log, dispatcher: {}, reporting: {} };
  startUplink({ ...(options as unknown as UplinkOptions) });
  const data = toBinary(HelloSchema, create(HelloSchema, { session: new Uint8Array(randomBytes(16)) }));
  return {
    /** Resolves with the answer. */
    send: (address: NodeAddress) =>
      new Promise<Uint8Array>((respond) => {
        lanes.get('bk.v1.*.*.up.hello')?.push({ subject: upSubject(address, 'hello'), data, respond });
      }),
  };
}

test('one node that sends without end takes one turn at a time, and holds up nobody else', async (t) => {
  let begun = 0;
  const { send } = fixture(async ({ nodeUid }) => {
    if (nodeUid !== evil.nodeUid) return;
    begun += 1;
    await new Promise(() => undefined);
  });
  for (let i = 0; i < 1000; i += 1) void send(evil);
  const answer = await send(good);
  t.true(answer.length > 0);
  t.is(begun, 1);
});

test('of a node so much is heard and no more, until a little later', async (t) => {
  const begun = { good: 0, evil: 0 };
  const { send } = fixture(async ({ nodeUid }) => {
    begun[nodeUid as keyof typeof begun] += 1;
  });
  for (let i = 0; i < 3000; i += 1) void send(evil);
  await send(good);
  await until('what was taken has been worked on', () => begun.evil >= 200);
  t.true(begun.evil < 250, String(begun.evil));
  t.is(begun.good, 1);
});
