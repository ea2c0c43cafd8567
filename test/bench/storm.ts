import { randomBytes, randomUUID } from 'node:crypto';
import process from 'node:process';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import pRetry from 'p-retry';
import { systemClock } from '../../agent/clock.ts';
import { enroll } from '../../agent/link/enroll.ts';
import { EnrollError } from '../../agent/link/enroll_error.ts';
import { createLink, type Link } from '../../agent/link/link.ts';
import { silentLog } from '../../agent/log.ts';
import { SetDigest } from '../../proto/digest.ts';
import {
  HeartbeatSchema,
  HelloReplySchema,
  HelloSchema,
  SignedSchema,
  SyncReplySchema,
  SyncRequestSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ConditionStatus, NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { SystemService } from '../../proto/gen/baykeeper/v1/system_service_pb.js';
import { fromSeed } from '../../proto/nkeys.ts';
import { downSubject, type NodeAddress, upSubject } from '../../proto/subjects.ts';
import { createAgentKey } from '../harness/agent_client.ts';
import { type ControlPlane, startControlPlane } from '../harness/control_plane.ts';
import { until } from '../harness/until.ts';
import { cpuSeconds, type Row, residentMb } from './measure.ts';

const agents = 500;
const joiners = 16;
const settleSeconds = 20;

/** The broker is killed under 500 agents, that all come back at once. */
export async function storm(): Promise<Row[]> {
  await using controlPlane = await startControlPlane({ args: ['--log-level', 'warn'] });
  await controlPlane.createBay('storm');
  const all = await joinAll(controlPlane);
  try {
    const haveSessions = () => all.filter((agent) => agent.epoch !== undefined).length;
    await until('all have sessions', () => haveSessions() === agents, { timeoutMs: 120_000 });
    // Until what the first sessions had written is written.
    await new Promise((resolve) => setTimeout(resolve, settleSeconds * 1000));
    const { pid } = controlPlane.program;
    const before = {
      memory: await residentMb(pid),
      cpu: await cpuSeconds(pid),
      revision: await revision(controlPlane),
    };
    const hellos = () => all.reduce((sum, agent) => sum + agent.hellos, 0);
    const hellosBefore = hellos();
    for (const agent of all) agent.epoch = undefined;
    process.kill(Number(await controlPlane.brokerPid()), 'SIGKILL');
    const killedMs = performance.now();
    let peak = before.memory;
    const watch = async () => {
      peak = Math.max(peak, await residentMb(pid));
      return haveSessions() === agents;
    };
    await until('all have sessions again', watch, { timeoutMs: 120_000, intervalMs: 20 });
    const backMs = performance.now() - killedMs;
    const cpu = (await cpuSeconds(pid)) - before.cpu;
    const end = performance.now() + settleSeconds * 1000;
    while (performance.now() < end) await until('later', async () => (await watch()) || true, { intervalMs: 200 });
    const written = (await revision(controlPlane)) - before.revision;
    return [
      {
        what: `nats-server killed under ${agents} agents: until all have sessions again`,
        measured: `${(backMs / 1000).toFixed(1)} s, ${hellos() - hellosBefore} hellos`,
        target: '',
      },
      {
        what: 'control plane meanwhile',
        measured: `peak ${Math.round(peak)} MB (before: ${Math.round(before.memory)} MB), ${cpu.toFixed(1)} s of processor time`,
        target: '',
      },
      { what: 'changes written for it', measured: `${written}`, target: `${agents}: an epoch each` },
    ];
  } finally {
    await Promise.all(all.map((agent) => agent.close()));
  }
}

const revision = async (controlPlane: ControlPlane): Promise<number> =>
  Number((await controlPlane.client(SystemService).getVersion({})).revision);

async function joinAll(controlPlane: ControlPlane): Promise<StormAgent[]> {
  const token = await controlPlane.joinToken('storm', agents);
  const all: StormAgent[] = [];
  let next = 0;
  const joiner = async () => {
    while (next < agents) {
      next += 1;
      all.push(await join(controlPlane.url, token, `node-${next}`));
    }
  };
  await Promise.all(Array.from({ length: joiners }, joiner));
  return all;
}

async function join(server: string, token: string, nodeName: string): Promise<StormAgent> {
  const { publicKey, seed } = createAgentKey();
  const pair = fromSeed(seed);
  const identity = { publicKey, sign: (data: Uint8Array) => pair.sign(data) };
  const asked = { token, bay: 'storm', nodeName, agentVersion: 'storm' };
  // All of them are one address to the control plane, which lets strangers from there call fifty times a second.
  const credentials = await pRetry(() => enroll({ server, identity, nowMs: Date.now }, asked), {
    retries: 60,
    factor: 1,
    shouldRetry: ({ error }) => error instanceof EnrollError && error.kind === 'unavailable',
  });
  const address = { bayUid: credentials.bayUid, nodeUid: credentials.nodeUid };
  const link = createLink({
    nodeUid: credentials.nodeUid,
    credentials: () => credentials,
    seed,
    clock: systemClock,
    log: silentLog,
  });
  return new StormAgent(link, address);
}

/** The real agent's connection, with its back-off; and of its sessions as much as the control plane sees. It has nothing to run. */
class StormAgent {
  epoch: bigint | undefined;
  hellos = 0;
  readonly #link: Link;
  readonly #address: NodeAddress;
  readonly #instanceId = randomUUID();
  #session = randomBytes(16);
  #sequence = 0n;
  #applied = 0n;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(link: Link, address: NodeAddress) {
    this.#link = link;
    this.#address = address;
    link.subscribe(downSubject(address, 'assign'), () => undefined);
    link.onConnected((connected) => {
      if (connected) void this.#greet();
      else {
        this.epoch = undefined;
        clearTimeout(this.#timer);
      }
    });
    link.start();
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#link.close();
  }

  async #greet(): Promise<void> {
    try {
      this.hellos += 1;
      const session = randomBytes(16);
      const hello = create(HelloSchema, { instanceId: this.#instanceId, agentVersion: 'storm', session });
      const said = await this.#link.request(upSubject(this.#address, 'hello'), toBinary(HelloSchema, hello), 10_000);
      const { error, epoch } = fromBinary(HelloReplySchema, payloadOf(said));
      if (error) throw new Error(error.message);
      this.#sequence = 0n;
      this.#session = session;
      const asked = { appliedRevision: this.#applied, digest: emptyDigest };
      const sync = create(SyncRequestSchema, { epoch, session, nonce: randomBytes(16), ...asked });
      const answer = await this.#link.request(
        upSubject(this.#address, 'sync'),
        toBinary(SyncRequestSchema, sync),
        10_000,
      );
      const reply = fromBinary(SyncReplySchema, payloadOf(answer));
      if (reply.error) throw new Error(reply.error.message);
      this.#applied = reply.revision;
      this.epoch = epoch;
      this.#heartbeat();
    } catch {
      if (this.#closed) return;
      // As the agent does: half a second at first, with full jitter.
      this.#timer = setTimeout(() => this.#link.connected && void this.#greet(), 50 + Math.random() * 450);
    }
  }

  #heartbeat(): void {
    if (this.epoch === undefined || !this.#link.connected) return;
    this.#sequence += 1n;
    const ready = { type: 'Ready', status: ConditionStatus.TRUE, reason: 'EngineAnswers' };
    const heartbeat = create(HeartbeatSchema, {
      epoch: this.epoch,
      session: this.#session,
      sequence: this.#sequence,
      appliedRevision: this.#applied,
      digest: emptyDigest,
      status: { phase: NodePhase.READY, conditions: [ready] },
    });
    this.#link.publish(upSubject(this.#address, 'heartbeat'), toBinary(HeartbeatSchema, heartbeat));
    this.#timer = setTimeout(() => this.#heartbeat(), 10_000);
  }
}

const payloadOf = (sealed: Uint8Array) => fromBinary(SignedSchema, sealed).payload;
const emptyDigest = new SetDigest().bytes();
