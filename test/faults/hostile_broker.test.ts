import { spawn } from 'node:child_process';
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import test from 'ava';
import type { Msg, NatsConnection } from 'nats';
import {
  AssignSchema,
  FrameSchema,
  HeartbeatSchema,
  HelloReplySchema,
  HelloSchema,
  SignedSchema,
  StreamOpenSchema,
  SyncReplySchema,
  SyncRequestSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import type { SignedContext } from '../../proto/signing.ts';
import { downStreamSubject, downSubject, type NodeAddress, upSubject } from '../../proto/subjects.ts';
import { startAgent } from '../harness/agent.ts';
import { bayctl, bayctlEnvironment, bayctlPath } from '../harness/bayctl.ts';
import { connectBusInsider } from '../harness/bus_insider.ts';
import { ChainModel, chunksOf, deltaOf } from '../harness/chain_model.ts';
import { TestSigner } from '../harness/signing.ts';
import { type Site, startSite } from '../harness/site.ts';
import { until } from '../harness/until.ts';

/* Somebody who may do on the broker whatever the control plane may: hears all, and sends what he likes. He runs no container, and no command. */

let site: Site;
let insider: NatsConnection;
let victim: NodeAddress;
let other: NodeAddress;
let closeOther: () => Promise<void>;
test.before(async () => {
  site = await startSite({ args: ['--heartbeat', '1s'] });
  const { controlPlane } = site;
  await controlPlane.createBay('other');
  // A node of another bay, whose place the insider takes.
  const second = await startAgent({ controlPlane, bay: 'other', name: 'node-2', waitReady: false });
  closeOther = () => second[Symbol.asyncDispose]();
  victim = await addressOf('local', 'node-1');
  other = await addressOf('other', 'node-2');
  await second.stop();
  insider = await connectBusInsider(controlPlane, other.nodeUid);
  await create_('kept');
  await site.inPhase('kept', ContainerPhase.RUNNING);
});
test.after.always(async () => {
  await insider?.close();
  await closeOther?.();
  await site?.[Symbol.asyncDispose]();
});

async function addressOf(bay: string, name: string): Promise<NodeAddress> {
  const { node } = await site.controlPlane.client(NodeService).getNode({ bay, name });
  const found = await site.controlPlane.client(BayService).getBay({ name: bay });
  return { bayUid: found.bay?.metadata?.uid ?? '', nodeUid: node?.metadata?.uid ?? '' };
}

const api = () => site.controlPlane.client(ContainerService);
const create_ = (name: string, bay = 'local') =>
  api().createContainer({
    container: {
      metadata: { bay, name },
      spec: { image: site.image, args: ['sleep', '10000'], stopTimeout: { seconds: 0n } },
    },
  });
const exec = (...command: string[]) =>
  bayctl(site.controlPlane, ['exec', 'container/kept', '-b', 'local', '--', ...command]);

/** The session that the agent says it is in: every heartbeat says it, to whoever listens. */
async function session(): Promise<{ epoch: bigint; nonce: Uint8Array; revision: bigint }> {
  const heard = Promise.withResolvers<Msg>();
  const tap = insider.subscribe(upSubject(victim, 'heartbeat'), {
    max: 1,
    callback: (_error, message) => heard.resolve(message),
  });
  const { epoch, session: nonce, appliedRevision } = fromBinary(HeartbeatSchema, (await heard.promise).data);
  tap.unsubscribe();
  return { epoch, nonce, revision: appliedRevision };
}

/** What comes after the attack is taken, and alone. */
async function nothingElse(t: { deepEqual(a: unknown, b: unknown): void }): Promise<void> {
  await insider.flush();
  await create_('after');
  await site.inPhase('after', ContainerPhase.RUNNING);
  t.deepEqual(await site.onEngine(), ['after', 'kept']);
  await api().deleteContainer({ bay: 'local', name: 'after' });
  await site.gone('after');
}

const stranger = new TestSigner(66);

test.serial('what the insider makes up runs nothing, and removes nothing', async (t) => {
  const { epoch, nonce, revision } = await session();
  const chain = new ChainModel();
  chain.revision = revision;
  const evil = chain.put(randomUUID(), site.image);
  const delta = deltaOf(epoch, revision, revision + 1n, [evil]);
  // A snapshot that lacks what runs, and one more that has what should not.
  const empty = chunksOf(epoch, Object.assign(new ChainModel(), { revision: revision + 5n }).snapshot());
  const subject = downSubject(victim, 'assign');
  for (const assign of [delta, ...empty, ...chunksOf(epoch, chain.snapshot())]) {
    const payload = toBinary(AssignSchema, assign);
    const context: SignedContext = { ...victim, purpose: 'assign', nonce };
    const forged = fromBinary(SignedSchema, stranger.seal(context, payload));
    const { keyId } = fromBinary(SignedSchema, await signedByControlPlane());
    insider.publish(subject, payload);
    insider.publish(subject, stranger.seal(context, payload));
    // In the name of the true key.
    insider.publish(subject, toBinary(SignedSchema, create(SignedSchema, { ...forged, keyId })));
    insider.publish(subject, toBinary(SignedSchema, create(SignedSchema, { keyId, nonce, payload })));
  }
  await nothingElse(t);
  await until('the node tells of it', async () => {
    const { node } = await site.controlPlane.client(NodeService).getNode({ bay: 'local', name: 'node-1' });
    return node?.status?.conditions.find(({ type }) => type === 'MessagesRefused');
  });
  await until('it is counted', async () => {
    const metrics = await (await fetch(`${site.controlPlane.url}/metrics`)).text();
    return Number(/^baykeeper_agent_refused_messages_total (\d+)$/m.exec(metrics)?.[1]) > 0;
  });
});

/** Some message that the control plane has sent to the victim. */
async function signedByControlPlane(): Promise<Uint8Array> {
  const heard = Promise.withResolvers<Uint8Array>();
  const tap = insider.subscribe(downSubject(victim, 'assign'), {
    max: 1,
    callback: (_error, { data }) => heard.resolve(data),
  });
  await insider.flush();
  // A heartbeat of another session is answered on the subject of assignments.
  const heartbeat = create(HeartbeatSchema, { epoch: 1n, sequence: 1n, session: randomBytes(16) });
  insider.publish(upSubject(victim, 'heartbeat'), toBinary(HeartbeatSchema, heartbeat));
  const data = await heard.promise;
  tap.unsubscribe();
  return data;
}

test.serial('what the control plane has signed for a node of another bay is worth nothing here', async (t) => {
  const { nonce } = await session();
  const taken: Uint8Array[] = [];
  const tap = insider.subscribe(downSubject(other, 'assign'), { callback: (_error, { data }) => taken.push(data) });
  // In the place of the other node, the insider says what the victim has drawn.
  const hello = create(HelloSchema, { instanceId: randomUUID(), session: nonce });
  const said = await insider.request(upSubject(other, 'hello'), toBinary(HelloSchema, hello), { timeout: 5_000 });
  const reply = fromBinary(HelloReplySchema, fromBinary(SignedSchema, said.data).payload);
  t.is(reply.error, undefined);
  const container = await create_('theirs', 'other');
  t.truthy(container.container);
  const sync = create(SyncRequestSchema, { epoch: reply.epoch, session: nonce, nonce: randomBytes(16) });
  const answer = await insider.request(upSubject(other, 'sync'), toBinary(SyncRequestSchema, sync), { timeout: 5_000 });
  t.is(fromBinary(SyncReplySchema, fromBinary(SignedSchema, answer.data).payload).error, undefined);
  await until('it was assigned', () => taken.length > 0);
  tap.unsubscribe();
  for (const data of taken) {
    t.deepEqual(Buffer.from(fromBinary(SignedSchema, data).nonce), Buffer.from(nonce));
    insider.publish(downSubject(victim, 'assign'), data);
  }
  await nothingElse(t);
});

test.serial('what was said once is worth nothing later, also to an agent that has forgotten all', async (t) => {
  const seen: Msg[] = [];
  const tap = insider.subscribe(downSubject(victim, 'assign'), { callback: (_error, message) => seen.push(message) });
  await create_('once');
  await site.inPhase('once', ContainerPhase.RUNNING);
  await api().deleteContainer({ bay: 'local', name: 'once' });
  await site.gone('once');
  tap.unsubscribe();
  t.true(seen.length >= 3);
  await site.agent.stop();
  await rm(path.join(site.agent.dataDir, 'state.bin'));
  await site.agent.start();
  const replay = () => {
    for (const { subject, data } of seen) insider.publish(subject, data);
  };
  // At its very beginning, and after.
  const early = setInterval(replay, 10);
  try {
    await site.agent.ready();
  } finally {
    clearInterval(early);
  }
  replay();
  await nothingElse(t);
});

test.serial('commands run when the control plane says so, once, and read what it sends', async (t) => {
  const opens: Msg[] = [];
  const frames: Msg[] = [];
  const taps = [
    insider.subscribe(downSubject(victim, 'open'), { callback: (_error, message) => opens.push(message) }),
    insider.subscribe(downStreamSubject(victim, 'x').replace(/x$/, '*'), {
      callback: (_error, message) => frames.push(message),
    }),
  ];
  await insider.flush();
  const count = () => exec('sh', '-c', 'wc -l < /count').then(({ stdout }) => stdout.trim());
  t.is((await exec('sh', '-c', 'echo ran >> /count')).code, 0);
  t.is(await count(), '1');
  const [open] = opens;
  if (!open) throw new Error('nothing was opened');

  // Again, as it is, and made up.
  const { nonce } = await session();
  const message = create(StreamOpenSchema, {
    ...fromBinary(StreamOpenSchema, fromBinary(SignedSchema, open.data).payload),
    streamId: randomUUID(),
  });
  const payload = toBinary(StreamOpenSchema, message);
  const forged = stranger.seal({ ...victim, purpose: 'stream-open', nonce }, payload);
  const renamed = create(SignedSchema, { ...fromBinary(SignedSchema, open.data), payload });
  for (const data of [open.data, payload, forged, toBinary(SignedSchema, renamed)]) insider.publish(open.subject, data);
  await insider.flush();
  t.is(await count(), '1');

  // Into a shell that is open.
  const shell = spawn(bayctlPath, ['exec', '-i', 'container/kept', '-b', 'local', '--', 'sh'], {
    env: { ...process.env, ...bayctlEnvironment(site.controlPlane) },
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  frames.length = 0;
  let said = '';
  shell.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
  shell.stdin.write('echo one >> /count; echo began\n');
  await until('the shell listens', () => said.includes('began'));
  t.is(await count(), '2');
  const input = frames.find(
    ({ data }) => fromBinary(FrameSchema, fromBinary(SignedSchema, data).payload).body.case === 'stdin',
  );
  if (!input) throw new Error('no input was seen');
  const streamId = input.subject.split('.').at(-1) ?? '';
  for (let sequence = 0; sequence < 6; sequence += 1) {
    const stdin = Buffer.from('echo evil >> /count\n');
    const frame = toBinary(FrameSchema, create(FrameSchema, { sequence, body: { case: 'stdin', value: stdin } }));
    insider.publish(input.subject, frame);
    insider.publish(input.subject, stranger.seal({ ...victim, purpose: 'stream-frame', nonce, streamId }, frame));
    const signed = fromBinary(SignedSchema, input.data);
    insider.publish(input.subject, toBinary(SignedSchema, create(SignedSchema, { ...signed, payload: frame })));
  }
  await insider.flush();
  shell.stdin.end('echo two >> /count; echo ended\n');
  await once(shell, 'exit');
  t.regex(said, /ended/);
  t.is(await count(), '3');
  for (const tap of taps) tap.unsubscribe();
});

test.serial('a state on disk that was changed is not acted on, and is set aside; what runs goes on', async (t) => {
  const { agent } = site;
  const file = path.join(agent.dataDir, 'state.bin');
  const before = (await site.dockerd.docker.getContainer('kept').inspect()).Id;
  await agent.stop();
  await site.controlPlane.stop();
  const state = await readFile(file);
  const at = state.indexOf(site.image, 48);
  t.true(at > 0);
  state.write('busybox:evil'.slice(0, site.image.length), at);
  createHash('sha256').update(state.subarray(0, 16)).update(state.subarray(48)).digest().copy(state, 16);
  await writeFile(file, state);
  await agent.start();
  await until('it was set aside', async () =>
    (await readdir(agent.dataDir)).some((name) => name.startsWith('state.bin.broken-')),
  );
  await site.controlPlane.start();
  await agent.ready();
  await site.inPhase('kept', ContainerPhase.RUNNING);
  t.is((await site.dockerd.docker.getContainer('kept').inspect()).Id, before);
  t.true(agent.program.output.includes('its signature is not good'));
});
