import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ExecutionContext } from 'ava';
import { type Agent, startAgent } from '../../agent/agent.ts';
import { systemClock } from '../../agent/clock.ts';
import { type Identity, openIdentity } from '../../agent/link/identity.ts';
import { silentLog } from '../../agent/log.ts';
import { allowAll, fixedPolicy } from '../../agent/policy.ts';
import { type Credentials, CredentialsSchema } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { FakeWorkloads } from './fake_workloads.ts';
import type { NatsServer } from './nats_server.ts';
import { ScriptedControlPlane } from './scripted_control_plane.ts';
import { type TestSigner, testSigner } from './signing.ts';
import { until } from './until.ts';

export function credentialsFor(
  { bayUid, nodeUid }: { bayUid: string; nodeUid: string },
  url: string,
  lifeMs = 86_400_000,
  signer = testSigner,
): Credentials {
  const now = Date.now();
  return create(CredentialsSchema, {
    project: 'default',
    bayUid,
    bay: 'edge-1',
    nodeUid,
    node: 'n1',
    userJwt: `e30.e30.${randomUUID()}`,
    issueTime: timestampFromMs(now),
    expireTime: timestampFromMs(now + lifeMs),
    brokerUrls: [url],
    signingKeys: signer.keys(),
  });
}

export interface AgentBed {
  readonly cp: ScriptedControlPlane;
  readonly identity: Identity;
  readonly workloads: FakeWorkloads;
  readonly agent: Agent;
  /** Whose keys the API tells of. */
  signer: TestSigner;
  restart(): Promise<void>;
}

/** An agent between a control plane that does as it is told and an engine in memory. */
export async function agentBed(
  t: ExecutionContext,
  server: NatsServer,
  { lifeMs, pingIntervalMs }: { readonly lifeMs?: number; readonly pingIntervalMs?: number } = {},
): Promise<AgentBed> {
  const dataDir = await mkdtemp(join(tmpdir(), 'agent-'));
  const address = { bayUid: randomUUID(), nodeUid: randomUUID() };
  const cp = await ScriptedControlPlane.start(server.url, address);
  const identity = await openIdentity(dataDir);
  await identity.take(credentialsFor(address, server.url, lifeMs));
  let workloads: FakeWorkloads | undefined;
  let signer = testSigner;
  const running = new Map<string, bigint>();
  const start = () =>
    startAgent({
      dataDir,
      identity,
      createWorkloads: (context) => {
        const next = new FakeWorkloads(context);
        // The engine outlives the agent.
        for (const [uid, generation] of workloads?.running ?? running) next.running.set(uid, generation);
        workloads = next;
        return next;
      },
      policy: fixedPolicy(allowAll),
      prove: async () => credentialsFor(address, server.url, lifeMs, signer),
      agentVersion: '0.0.0-test',
      clock: systemClock,
      log: silentLog,
      pingIntervalMs,
    });
  let agent = await start();
  t.teardown(async () => {
    await agent.stop();
    await cp[Symbol.asyncDispose]();
    await rm(dataDir, { recursive: true, force: true });
  });
  return {
    cp,
    identity,
    get workloads() {
      if (!workloads) throw new Error('not started');
      return workloads;
    },
    get agent() {
      return agent;
    },
    get signer() {
      return signer;
    },
    set signer(next) {
      signer = next;
    },
    async restart() {
      await agent.stop();
      agent = await start();
    },
  };
}

export const running = ({ workloads }: AgentBed) => [...workloads.running.keys()].sort();
export const is = (b: AgentBed, ...uids: string[]) =>
  until(`${uids} run`, () => running(b).join() === uids.sort().join());
export const converged = (b: AgentBed) =>
  until('the agent has what is assigned', () => {
    const { store } = b.agent;
    return store.revision === b.cp.chain.revision && Buffer.from(store.digest).equals(b.cp.chain.digest);
  });
