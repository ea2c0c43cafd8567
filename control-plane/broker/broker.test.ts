import test from 'ava';
import { NatsError } from 'nats';
import { downSubject, everyUpSubject, inboxPrefix, upStreamSubject, upSubject } from '../../proto/subjects.ts';
import { connectAgentClient, createAgentKey } from '../../test/harness/agent_client.ts';
import {
  alice,
  bytes,
  joinBus,
  otherBay,
  refusals,
  sameBay,
  start,
  subscribed,
  text,
} from '../../test/harness/broker_bed.ts';
import { until } from '../../test/harness/until.ts';
import { InvalidError, UnavailableError } from '../domain/errors.ts';
import type { ConnectionEvent } from './port.ts';

test('an agent and the control plane reach each other on the agent’s own subjects', async (t) => {
  const broker = await start(t);
  const { client } = await joinBus(t, broker, alice);
  broker.bus.subscribe(everyUpSubject('hello'), (message) => message.respond(bytes(`to ${text(message.data)}`)));
  await subscribed(broker);
  const answer = await client.request(upSubject(alice, 'hello'), bytes('you'), { timeout: 5000 });
  t.is(answer.string(), 'to you');

  client.subscribe(downSubject(alice, 'open'), {
    callback: (_error, message) => void message.respond(bytes('opened')),
  });
  await client.flush();
  t.is(text(await broker.bus.request(downSubject(alice, 'open'), bytes('x'), 5000)), 'opened');
  await t.throwsAsync(broker.bus.request(downSubject(otherBay, 'open'), bytes('x'), 5000), {
    instanceOf: UnavailableError,
    message: /nobody listens/,
  });
  t.is(broker.bus.maxPayloadBytes, 1024 * 1024);
});

test('the broker refuses an agent everything that is another’s, and the system’s', async (t) => {
  const broker = await start(t);
  const victim = await joinBus(t, broker, otherBay);
  const neighbour = await joinBus(t, broker, sameBay);
  const { client } = await joinBus(t, broker, alice);
  const refused = refusals(client);
  const heard: string[] = [];
  for (const { client: other, address } of [victim, neighbour]) {
    for (const subject of [`bk.v1.${address.bayUid}.${address.nodeUid}.down.>`, `${inboxPrefix(address.nodeUid)}.>`]) {
      other.subscribe(subject, { callback: (_error, message) => void heard.push(message.subject) });
    }
    await other.flush();
  }
  broker.bus.subscribe('>', (message) => void heard.push(message.subject));
  await subscribed(broker);
  heard.length = 0;

  const publishes = [otherBay, sameBay].flatMap((other) => [
    upSubject(other, 'report'),
    upStreamSubject(other, 's1'),
    downSubject(other, 'assign'),
    `${inboxPrefix(other.nodeUid)}.x`,
  ]);
  publishes.push(
    downSubject(alice, 'assign'),
    `${inboxPrefix('node-1')}.x`,
    '_INBOX.x',
    'anything',
    '$SYS.REQ.SERVER.PING',
  );
  publishes.push('$SYS.REQ.CLAIMS.UPDATE', 'bk.v1.bay-1.node-1x.up.report', 'bk.v1.bay-1.node-1.up');
  for (const subject of publishes) client.publish(subject, bytes('evil'));
  const subscriptions = [otherBay, sameBay].flatMap((other) => [
    `bk.v1.${other.bayUid}.${other.nodeUid}.down.>`,
    upSubject(other, 'report'),
    `${inboxPrefix(other.nodeUid)}.>`,
  ]);
  subscriptions.push(
    '>',
    '*',
    '*.>',
    '$SYS.>',
    'bk.>',
    'bk.v1.*.*.down.>',
    'bk.v1.bay-1.*.down.assign',
    '_INBOX.>',
    '*.x',
  );
  subscriptions.push(upSubject(alice, 'report'));
  for (const subject of subscriptions) client.subscribe(subject, { callback: () => undefined });
  client.subscribe(downSubject(otherBay, 'assign'), { queue: 'thieves', callback: () => undefined });
  subscriptions.push(downSubject(otherBay, 'assign'));
  client.publish(upSubject(alice, 'report'), bytes('honest'));
  await client.flush();

  const expected = [...publishes.map((s) => `publish ${s}`), ...subscriptions.map((s) => `subscription ${s}`)];
  await until('every refusal', () => refused.length >= expected.length);
  t.deepEqual([...refused].sort(), expected.sort());
  await until('the control', () => heard.includes(upSubject(alice, 'report')));
  t.deepEqual(heard, [upSubject(alice, 'report')]);
});

test('no agent can have the control plane answer to another agent', async (t) => {
  const broker = await start(t);
  const victim = await joinBus(t, broker, otherBay);
  const { client } = await joinBus(t, broker, alice);
  const heard: string[] = [];
  for (const subject of [`bk.v1.bay-2.node-3.down.>`, `${inboxPrefix('node-3')}.>`]) {
    victim.client.subscribe(subject, { callback: (_error, message) => void heard.push(message.subject) });
  }
  await victim.client.flush();
  broker.bus.subscribe('bk.v1.>', (message) => message.respond(bytes('answer')));
  await subscribed(broker);
  for (const reply of [downSubject(otherBay, 'assign'), `${inboxPrefix('node-3')}.x`, `${inboxPrefix('node-33')}.x`]) {
    client.publish(upSubject(alice, 'hello'), bytes('x'), { reply });
    client.publish('bk.v1.bay-1.node-1.up.unknown', bytes('x'), { reply });
  }
  t.is((await client.request(upSubject(alice, 'hello'), bytes('x'), { timeout: 5000 })).string(), 'answer');
  broker.bus.publish(downSubject(otherBay, 'assign'), bytes('last'));
  await until('the last', () => heard.length > 0);
  t.deepEqual(heard, [downSubject(otherBay, 'assign')]);
});

test('an answer is one, and only to who asked', async (t) => {
  const broker = await start(t);
  const { client } = await joinBus(t, broker, alice);
  const refused = refusals(client);
  let reply = '';
  client.subscribe(downSubject(alice, 'open'), {
    callback: (_error, message) => {
      reply = message.reply ?? '';
      message.respond(bytes('first'));
      message.respond(bytes('second'));
    },
  });
  await client.flush();
  t.is(text(await broker.bus.request(downSubject(alice, 'open'), bytes('x'), 5000)), 'first');
  await until('the refusal of the second', () => refused.length === 1);
  t.deepEqual(refused, [`publish ${reply}`]);
});

test('credentials end when they expire, the live connection with them', async (t) => {
  const broker = await start(t, { credentialTtlMs: 2000 });
  const key = createAgentKey();
  const issued = await broker.access.issue({ ...alice, publicKey: key.publicKey, name: 'a' });
  t.is(issued.expireTimeMs - issued.issueTimeMs, 2000);
  const [url = ''] = broker.access.urls;
  const options = { url, userJwt: issued.userJwt, seed: key.seed, address: alice };
  const client = await connectAgentClient(options);
  const reason = await client.closed();
  t.regex(String(reason), /expired/i);
  t.true(Date.now() >= issued.expireTimeMs - 10);
  // JWTs count in whole seconds: to the end of this one the broker may still let it in, for a moment.
  await until('the refusal', () =>
    connectAgentClient(options).then(
      (late) => late.close().then(() => false),
      () => true,
    ),
  );
  const renewed = await broker.access.issue({ ...alice, publicKey: key.publicKey, name: 'a' });
  await (await connectAgentClient({ ...options, userJwt: renewed.userJwt })).close();
});

test('credentials are worth nothing without the private key', async (t) => {
  const broker = await start(t);
  const { userJwt } = await joinBus(t, broker, alice);
  const thief = createAgentKey();
  const [url = ''] = broker.access.urls;
  await t.throwsAsync(connectAgentClient({ url, userJwt, seed: thief.seed, address: alice }), {
    instanceOf: NatsError,
  });
});

test('only keys of users are given credentials, and never the control plane’s own', async (t) => {
  const broker = await start(t);
  for (const publicKey of ['', 'garbage', 'U'.repeat(56), createAgentKey().publicKey.toLowerCase()]) {
    await t.throwsAsync(broker.access.issue({ ...alice, publicKey, name: 'a' }), { instanceOf: InvalidError });
  }
  await t.throwsAsync(
    broker.access.issue({ bayUid: 'a.b', nodeUid: '*', publicKey: createAgentKey().publicKey, name: 'a' }),
    { instanceOf: TypeError },
  );
});

test('the broker tells of connections, by the key that was proven and not by the one that is claimed', async (t) => {
  const broker = await start(t);
  const events: ConnectionEvent[] = [];
  broker.access.onConnection((event) => void events.push(event));
  const victim = createAgentKey();
  const key = createAgentKey();
  const { userJwt } = await broker.access.issue({ ...alice, publicKey: key.publicKey, name: 'a' });
  const [url = ''] = broker.access.urls;
  const options = { url, userJwt, seed: key.seed, address: alice, claimedKey: victim.publicKey };
  const begin = Date.now();
  const first = await connectAgentClient(options);
  const second = await connectAgentClient(options);
  await until('both connections', () => events.length === 2);
  await first.close();
  await until('the end of the first', () => events.length === 3);
  t.log(`the third event after ${Date.now() - begin} ms`);
  const [one, two, three] = events;
  t.deepEqual(
    events.map((event) => [event.publicKey, event.connected]),
    [
      [key.publicKey, true],
      [key.publicKey, true],
      [key.publicKey, false],
    ],
  );
  t.not(one?.connectionId, two?.connectionId);
  t.is(three?.connectionId, one?.connectionId);
  for (const event of events) t.true(Math.abs(event.timeMs - Date.now()) < 10_000);
  await second.close();
});

test('nats-server killed: it is started again, and everybody is back on the same address', async (t) => {
  const broker = await start(t);
  const { client } = await joinBus(t, broker, alice, true);
  const states: boolean[] = [];
  const events: ConnectionEvent[] = [];
  broker.bus.onConnected((connected) => void states.push(connected));
  broker.access.onConnection((event) => void events.push(event));
  const heard: string[] = [];
  broker.bus.subscribe(everyUpSubject('heartbeat'), (message) => void heard.push(text(message.data)));
  const down: string[] = [];
  client.subscribe(downSubject(alice, 'assign'), { callback: (_error, message) => void down.push(message.string()) });
  const before = broker.server?.pid ?? 0;
  const begin = Date.now();
  process.kill(before, 'SIGKILL');
  await until('the loss', () => !broker.bus.connected);
  t.throws(() => broker.bus.publish(downSubject(alice, 'assign'), bytes('x')), { instanceOf: UnavailableError });
  await t.throwsAsync(broker.bus.request(downSubject(alice, 'open'), bytes('x'), 1000), {
    instanceOf: UnavailableError,
  });
  await until('the bus', () => broker.bus.connected);
  t.log(`the bus is back after ${Date.now() - begin} ms`);
  await until('the agent', () => events.some((event) => event.connected));
  await until('a message up', () => {
    client.publish(upSubject(alice, 'heartbeat'), bytes('again'));
    return heard.includes('again');
  });
  await until('a message down', () => {
    broker.bus.publish(downSubject(alice, 'assign'), bytes('again'));
    return down.includes('again');
  });
  t.deepEqual(states, [false, true]);
  t.not(broker.server?.pid, before);
});

test('messages of one subject are handled in order, and a slow one holds up no other subject', async (t) => {
  const broker = await start(t);
  const one = await joinBus(t, broker, alice);
  const two = await joinBus(t, broker, sameBay);
  const done: string[] = [];
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  broker.bus.subscribe(everyUpSubject('report'), async (message) => {
    const said = text(message.data);
    if (said === 'one 0') await gate;
    if (said === 'one 1') throw new Error('on purpose');
    done.push(said);
  });
  await subscribed(broker);
  for (let i = 0; i < 50; i += 1) one.client.publish(upSubject(alice, 'report'), bytes(`one ${i}`));
  for (let i = 0; i < 50; i += 1) two.client.publish(upSubject(sameBay, 'report'), bytes(`two ${i}`));
  await until('all of the second', () => done.length === 50);
  t.deepEqual(
    done,
    [...Array(50).keys()].map((i) => `two ${i}`),
  );
  release();
  await until('all of the first', () => done.length === 99);
  t.deepEqual(
    done.slice(50),
    [...Array(50).keys()].filter((i) => i !== 1).map((i) => `one ${i}`),
  );
});

test('nothing that an agent sends in place of a message harms the bus', async (t) => {
  const broker = await start(t);
  const { client } = await joinBus(t, broker, alice);
  const heard: string[] = [];
  broker.bus.subscribe('bk.v1.>', (message) => {
    heard.push(message.subject);
    message.respond(bytes('x'));
    throw new Error('on purpose');
  });
  await subscribed(broker);
  client.publish('bk.v1.bay-1.node-1.up.report', new Uint8Array(1024 * 1024));
  client.publish('bk.v1.bay-1.node-1.up.stream.a.b.c.d');
  client.publish('bk.v1.bay-1.node-1.up.x', bytes('x'), { reply: '$SYS.REQ.CLAIMS.UPDATE' });
  client.publish('bk.v1.bay-1.node-1.up.last');
  await until('the last', () => heard.length === 4);
  t.true(broker.bus.connected);
});
