import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { Interceptor, Transport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { pino } from 'pino';
import { Registry } from 'prom-client';
import { v7 as uuidv7 } from 'uuid';
import { type ApiOptions, createApi } from '../../control-plane/api/create_api.ts';
import { createMessageRules } from '../../control-plane/api/message_rules.ts';
import { FileAuditLog } from '../../control-plane/audit/audit_log.ts';
import type { AuditLog } from '../../control-plane/audit/port.ts';
import { createNodeProofs } from '../../control-plane/auth/node_proof.ts';
import type { Authenticator } from '../../control-plane/auth/port.ts';
import type { Access } from '../../control-plane/broker/port.ts';
import { newObject } from '../../control-plane/domain/lifecycle.ts';
import type { Principal } from '../../control-plane/domain/principal.ts';
import { decode, encode } from '../../control-plane/domain/record.ts';
import type { Liveness, NodeLiveness, Placement, Streams } from '../../control-plane/reconcile/port.ts';
import { type RunningServer, type ServerOptions, startServer } from '../../control-plane/server.ts';
import type { Store } from '../../control-plane/store/port.ts';
import { openSqliteStore } from '../../control-plane/store/sqlite.ts';
import { openWatch } from '../../control-plane/store/watch.ts';
import type { ContainerStatus } from '../../proto/gen/baykeeper/v1/container_pb.js';
import {
  ConditionStatus,
  NodeConditionSchema,
  NodePhase,
  NodeSchema,
  NodeStatusSchema,
} from '../../proto/gen/baykeeper/v1/node_pb.js';
import { createUser } from '../../proto/nkeys.ts';
import { testSigner } from './signing.ts';

/** Tokens that the fixture's server knows, and who has them. */
export const principals: Readonly<Record<string, Principal>> = {
  'red-token': { subject: 'rose', project: 'red', role: 'member' },
  'blue-token': { subject: 'bert', project: 'blue', role: 'member' },
  'red-reader-token': { subject: 'rita', project: 'red', role: 'reader' },
  'admin-token': { subject: 'ada', project: 'ops', role: 'admin' },
};

const authenticator: Authenticator = {
  authenticate: ({ token }) => (Object.hasOwn(principals, token) ? principals[token] : undefined),
};

/** To plan the rules takes longer than most tests: one for all APIs of a process. It knows nothing but the contract. */
const checkMessage = createMessageRules();

/** What is known of nodes, as a test says it is. */
export class ScriptedLiveness implements Liveness {
  readonly #nodes = new Map<string, NodeLiveness>();
  readonly #listeners = new Set<(nodeUid: string) => void>();
  node(nodeUid: string): NodeLiveness | undefined {
    return this.#nodes.get(nodeUid);
  }
  agentOf(uid: string): string | undefined {
    return this.#nodes.has(uid) ? uid : undefined;
  }
  subscribe(listener: (nodeUid: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  /** The node speaks, or has fallen silent. */
  set(nodeUid: string, fresh: boolean, ready = true): void {
    const nowMs = Date.now();
    const Ready = create(NodeConditionSchema, {
      type: 'Ready',
      status: ready ? ConditionStatus.TRUE : ConditionStatus.FALSE,
      reason: ready ? 'AgentReady' : 'EngineUnavailable',
      message: ready ? '' : 'The engine does not answer.',
    });
    this.#nodes.set(nodeUid, {
      fresh,
      connected: fresh,
      confirmTimeMs: nowMs,
      trustUntilMs: nowMs + (fresh ? 30_000 : 0),
      appliedRevision: 3,
      assignedRevision: 5,
      status: create(NodeStatusSchema, {
        phase: ready ? NodePhase.READY : NodePhase.NOT_READY,
        conditions: [Ready],
        observeTime: timestampFromMs(nowMs),
        agentVersion: '0.1.0',
        usage: { cpuPercent: 12.5, containersRunning: 2 },
      }),
    });
    for (const listener of this.#listeners) listener(nodeUid);
  }
}

/** Options of {@link startApi}. */
export interface ApiFixtureOptions {
  readonly api?: Partial<ApiOptions>;
  readonly server?: Partial<ServerOptions>;
  readonly streams?: Partial<Streams>;
  readonly log?: ApiOptions['log'];
  /** What the API is given in place of the store, to see what it reads. */
  readonly seenStore?: (store: Store) => Store;
}

/** A control plane without broker and reconciler: the real API, server and store, on a free port. */
export interface ApiFixture extends AsyncDisposable {
  readonly server: RunningServer;
  readonly store: Store;
  readonly audit: AuditLog;
  /** Where its files are. */
  readonly auditFolder: string;
  readonly liveness: ScriptedLiveness;
  readonly access: Access & { readonly revoked: string[]; down: boolean };
  readonly clock: { offsetMs: number; now(): number };
  readonly registry: Registry;
  /** The only node that new objects go to; undefined: none. */
  readonly placement: Placement & { node: { uid: string; name: string } | undefined };
  readonly bus: { connected: boolean };
  /** `protocol` over HTTP/2, as the owner of a token; an empty token: as nobody. */
  transport(options?: {
    protocol?: 'connect' | 'grpc' | 'grpc-web';
    token?: string;
    /** Which project an admin means; `-`: all. */
    project?: string;
    httpVersion?: '1.1' | '2';
  }): Transport;
  /** Puts a node into a bay, as enrolment would. */
  addNode(
    bayUid: string,
    name: string,
  ): Promise<{ readonly node: { uid: string; name: string }; readonly publicKey: string }>;
  /** What an agent's report does to a container: its status is written, and nothing else moves. */
  report(uid: string, change: (status: ContainerStatus) => void): Promise<void>;
}

export async function startApi(options: ApiFixtureOptions = {}): Promise<ApiFixture> {
  const dir = await mkdtemp(join(tmpdir(), 'baykeeper-api-'));
  const log = options.log ?? pino({ level: 'silent' });
  const clock = { offsetMs: 0, now: () => Date.now() + clock.offsetMs };
  const store = await openSqliteStore({ file: join(dir, 'store.db'), clock, log });
  const audit = await FileAuditLog.open({ folder: join(dir, 'audit'), clock, log });
  const liveness = new ScriptedLiveness();
  const placement: ApiFixture['placement'] = {
    node: undefined,
    choose: (_bayUid, name) => (name && placement.node?.name !== name ? undefined : placement.node),
  };
  const access: ApiFixture['access'] = {
    urls: ['nats://127.0.0.1:4222'],
    revoked: [],
    down: false,
    issue: async ({ name }) => ({
      userJwt: `jwt-of-${name}`,
      issueTimeMs: clock.now(),
      expireTimeMs: clock.now() + 86_400_000,
    }),
    revoke: async (keys) => {
      access.revoked.push(...keys);
    },
    onConnection: () => () => undefined,
  };
  const bus = { connected: true };
  const registry = new Registry();
  // biome-ignore lint/correctness/useYield: a stream that ends at once
  const unasked = async function* () {
    throw new Error('no test asked for a stream');
  };
  const streams: Streams = {
    logs: unasked,
    execute: unasked,
    podLogs: unasked,
    executePod: unasked,
    ...options.streams,
  };
  const api = await createApi({
    store: options.seenStore?.(store) ?? store,
    openWatch,
    access,
    signer: testSigner,
    bus,
    liveness,
    placement,
    publications: { publishTimeMs: () => undefined },
    streams,
    checks: {
      check: async () => {
        throw new Error('no test asked a cluster');
      },
    },
    authenticator,
    audit,
    proofs: createNodeProofs({ clock }),
    checkMessage,
    clock,
    log,
    registry,
    version: '0.1.0-test',
    joinCommandPrefix: 'node agent/main.ts join',
    trust: () => ({ certificates: [], brokerCertificates: [], serverUrls: ['http://127.0.0.1:7480'] }),
    ...options.api,
  });
  const server = await startServer({ host: '127.0.0.1', port: 0, api, registry, log, ...options.server });
  return {
    server,
    store,
    audit,
    auditFolder: join(dir, 'audit'),
    liveness,
    access,
    clock,
    registry,
    placement,
    bus,
    transport({ protocol = 'connect', token = 'red-token', project = '', httpVersion = '2' } = {}) {
      const authorize: Interceptor = (next) => (request) => {
        if (token) request.header.set('authorization', `Bearer ${token}`);
        if (project) request.header.set('x-baykeeper-project', project);
        return next(request);
      };
      const common = { baseUrl: server.url, interceptors: [authorize] };
      if (protocol === 'grpc') return createGrpcTransport(common);
      if (protocol === 'grpc-web') return createGrpcWebTransport({ ...common, httpVersion });
      return createConnectTransport({ ...common, httpVersion, useBinaryFormat: httpVersion === '2' });
    },
    async addNode(bayUid, name) {
      const uid = uuidv7();
      const publicKey = createUser().getPublicKey();
      const stored = await store.get({ uid: bayUid });
      if (!stored) throw new Error(`there is no bay ${bayUid}`);
      const input = create(NodeSchema, { metadata: { name }, spec: { publicKey } });
      const made = { uid, project: stored.project, bay: stored.name, nowMs: clock.now() };
      const node = newObject('Node', input, made);
      await store.write({
        reads: [{ kind: 'Node', project: stored.project, bayUid, namespace: '', name }],
        apply: (view) => view.put(encode('Node', node, { bayUid, assigneeUid: '', epoch: 1, sequence: 0 }), ''),
      });
      return { node: { uid, name }, publicKey };
    },
    async report(uid, change) {
      await store.write({
        reads: [{ uid }],
        apply: (view) => {
          const stored = view.get({ uid });
          if (!stored) throw new Error(`there is no object ${uid}`);
          const container = decode('Container', stored);
          if (container.status) change(container.status);
          view.put(encode('Container', container, { ...stored, epoch: 1, sequence: stored.sequence + 1 }), '');
        },
      });
    },
    async [Symbol.asyncDispose]() {
      await server.close({ graceMs: 500 });
      api.close();
      await audit.close();
      await store.close();
      await rm(dir, { recursive: true });
    },
  };
}
