import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import type { Credentials } from '../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import type { Clock } from './clock.ts';
import { Checks } from './link/checks.ts';
import type { Identity } from './link/identity.ts';
import { createLink } from './link/link.ts';
import { Renewal } from './link/renewal.ts';
import { Reporter } from './link/report.ts';
import { Session } from './link/session.ts';
import { DesiredStore } from './link/state.ts';
import { Streams } from './link/streams.ts';
import { Verifier } from './link/verifier.ts';
import type { Log } from './log.ts';
import type { PolicySource } from './policy.ts';
import type { ClusterReports, Desired, Workloads } from './ports.ts';

/** What the half that talks to the engine is made from. */
export interface WorkloadsContext {
  readonly desired: Desired;
  readonly reports: ClusterReports;
  readonly bayUid: string;
  readonly nodeUid: string;
  readonly nodeName: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Path of a file of its own. */
  readonly memoryFile: string;
  /** What the node's owner allows. */
  readonly policy: PolicySource;
}

/** The half that talks to the engine. */
export interface RunningWorkloads extends Workloads {
  /** Begins to make things so. Never rejects: an engine that is away is a condition. */
  start(): Promise<void> | void;
  /** Ends its work; what runs on the engine stays. */
  stop(): Promise<void> | void;
}

export interface AgentOptions {
  readonly dataDir: string;
  /** Has enrolled: `node` is known. */
  readonly identity: Identity;
  readonly policy: PolicySource;
  readonly createWorkloads: (context: WorkloadsContext) => RunningWorkloads;
  /** New credentials for a proof of the key. Rejects with EnrollError. */
  readonly prove: () => Promise<Credentials>;
  /** The control plane has another URL than last time, so the broker may have other addresses, too. Default false. */
  readonly moved?: boolean;
  readonly agentVersion: string;
  readonly clock: Clock;
  readonly log: Log;
  /** In [0, 1). Default `Math.random`. */
  readonly random?: () => number;
  /** Of the connection to the broker. Default 5 s. */
  readonly pingIntervalMs?: number;
}

export interface Agent {
  readonly session: Session;
  readonly store: DesiredStore;
  readonly streams: Streams;
  /** Ends everything but what runs on the engine. */
  stop(): Promise<void>;
}

/** How long a slow start of the engine's half may hold up the contact with the control plane. */
const startPatienceMs = 5_000;

/** Thrown when the agent has nothing to run with. */
export class NotJoinedError extends Error {
  override readonly name = 'NotJoinedError';
}

/**
 * Puts the agent together and starts it: first the engine's half, with the last state that was verified, then the connection to the
 * control plane. The data folder must be locked by the caller. Rejects with NotJoinedError.
 */
export async function startAgent(options: AgentOptions): Promise<Agent> {
  const { dataDir, identity, policy, clock, random } = options;
  const { node } = identity;
  if (!node) throw new NotJoinedError('this machine has not joined a bay: bayctl bay join-command prints how');
  const address = { bayUid: node.bayUid, nodeUid: node.nodeUid };
  const log = options.log.child({ bay: node.bay, node: node.node });
  const verifier = new Verifier({ address, keys: identity.trustedKeys, clock, log });
  const path = join(dataDir, 'state.bin');
  const store = await DesiredStore.open({ ...address, path, verifier, clock, log, random });

  // The session is made from what reports through it.
  const late: { session?: Session; workloads?: Workloads; renewal?: Renewal } = {};
  const session = () => {
    if (!late.session) throw new Error('the session does not exist yet');
    return late.session;
  };
  const reports = new Reporter({
    send: (report) => session().report(report),
    onRefused: (error) => session().doubted(error),
    unseen: () => late.workloads?.unseen ?? 0,
    clock,
    log,
    random,
  });
  const unlisten = store.subscribe((changed) => {
    const unsupported = store.unsupported();
    if (unsupported.length === 0) return;
    const now = new Set(changed);
    for (const report of unsupported) if (now.has(report.uid)) reports.put(report);
  });

  const workloads = options.createWorkloads({
    desired: store,
    reports,
    ...address,
    nodeName: node.node,
    clock,
    log,
    memoryFile: join(dataDir, 'memory.json'),
    policy,
  });
  late.workloads = workloads;
  await started(workloads, clock, log);

  const link = createLink({
    nodeUid: node.nodeUid,
    credentials: () => identity.credentials,
    seed: identity.seed,
    trust: () => identity.trust,
    clock,
    log,
    random,
    pingIntervalMs: options.pingIntervalMs,
  });
  late.session = new Session({
    address,
    link,
    store,
    verifier,
    reports,
    workloads,
    instanceId: randomUUID(),
    agentVersion: options.agentVersion,
    onTrust: (digest) => late.renewal?.trustSeen(digest),
    clock,
    log,
    random,
  });
  const onWorn = () => session().begin();
  const streams = new Streams({ address, link, workloads, policy, verifier, onWorn, clock, log });
  const renewal = new Renewal({
    address,
    identity,
    link,
    session: late.session,
    verifier,
    prove: options.prove,
    onKeys: () => session().catchUp(),
    moved: options.moved,
    clock,
    log,
    random,
  });
  late.renewal = renewal;
  late.session.onOpen((open) => {
    const { state } = session();
    if (open && state.name === 'open') streams.serve(state.heartbeatMs, state.nonce);
    else streams.closeAll('the agent lost its session');
  });
  streams.start();
  const nonce = () => {
    const { state } = session();
    return state.name === 'open' ? state.nonce : undefined;
  };
  new Checks({ address, link, workloads, verifier, session: nonce, log }).start();
  late.session.start();
  renewal.start();
  link.start();

  return {
    session: late.session,
    store,
    streams,
    async stop() {
      renewal.stop();
      streams.stop('the agent is stopping');
      session().stop();
      await link.close();
      await workloads.stop();
      unlisten();
      await store.close();
    },
  };
}

async function started(workloads: RunningWorkloads, clock: Clock, log: Log): Promise<void> {
  const late = Promise.withResolvers<void>();
  const cancel = clock.after(startPatienceMs, late.resolve);
  const start = Promise.resolve(workloads.start()).catch((error) => {
    log.error({ error: (error as Error).message }, 'the workloads could not be started');
  });
  await Promise.race([start, late.promise]);
  cancel();
}
