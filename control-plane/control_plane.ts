import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { collectDefaultMetrics, Registry } from 'prom-client';
import { createApi } from './api/create_api.ts';
import { storeObject, unrecordedChanges } from './api/unrecorded.ts';
import { FileAuditLog } from './audit/audit_log.ts';
import { damaged, nobody } from './audit/port.ts';
import { createNodeProofs } from './auth/node_proof.ts';
import { openAuthenticators } from './auth/open_authenticators.ts';
import { startBroker } from './broker/broker.ts';
import { KeyFileSigner } from './broker/message_signer.ts';
import { type Config, version } from './config.ts';
import { isWildcard } from './domain/ip.ts';
import { openExposure } from './exposure.ts';
import { openLogOutput } from './log_output.ts';
import { startReconciler } from './reconcile/reconciler.ts';
import { RevokedKeys } from './reconcile/revoked_keys.ts';
import { startServer } from './server.ts';
import { createStoreMetrics, exposeRevision } from './store/metrics.ts';
import { openSqliteStore } from './store/sqlite.ts';
import { openWatch } from './store/watch.ts';

/** How long calls that are under way may take to end when the control plane is asked to. */
const graceMs = 5_000;

/** A control plane that runs. */
export interface ControlPlane {
  /** `http://HOST:PORT`, as others can use it. */
  readonly url: string;
  /** What it listens on, where that is no address to use: every address of the machine. */
  readonly listensOn: string | undefined;
  /** Ends calls, reconcilers, broker and store, in this order. */
  stop(): Promise<void>;
}

/** Starts everything that a control plane is made of, in order; it ends in the reverse order. Rejects with one sentence. */
export async function startControlPlane(config: Config): Promise<ControlPlane> {
  const log = pino({ level: config.logLevel, base: undefined }, openLogOutput(2));
  const clock = { now: () => Date.now() };
  const stack = new AsyncDisposableStack();
  try {
    await mkdir(config.dataDir, { recursive: true, mode: 0o700 });
    await chmod(config.dataDir, 0o700);
    const registry = new Registry();
    collectDefaultMetrics({ register: registry });
    const store = await openSqliteStore({
      file: join(config.dataDir, 'store.db'),
      clock,
      log: log.child({ part: 'store' }),
      metrics: createStoreMetrics(registry),
    });
    stack.defer(() => store.close());
    exposeRevision(registry, store);

    const { dataDir, auth } = config;
    const audit = await FileAuditLog.open({
      folder: join(config.dataDir, 'audit'),
      clock,
      log: log.child({ part: 'audit' }),
    });
    const noteStore = (code: string, what: string): void => {
      const message = `version ${version} has ${what}, with the store at revision ${store.revision}`;
      audit.note({ ...nobody, kind: 'system', method: '', code, objects: [storeObject(store)], message });
    };
    stack.defer(async () => {
      noteStore('stopped', 'stopped');
      await audit.close();
    });
    if (audit.head.sequence === 0 && store.revision > 0) {
      const message = `the log is empty, and the store is at revision ${store.revision}: records were taken away`;
      audit.note({ ...nobody, kind: 'system', method: '', code: damaged, message });
    }
    try {
      for (const entry of await unrecordedChanges(store, audit)) audit.note(entry);
    } catch (error) {
      log.error({ err: error }, 'it cannot be found out what was changed without a record before the start');
    }
    noteStore('started', 'started');

    const exposure = await openExposure(config, {
      log: log.child({ part: 'tls' }),
      clock,
      onAuthority: (change) => audit.append({ ...nobody, ...change, kind: 'system', method: '' }),
    });
    stack.defer(async () => exposure.close());

    const revokedKeys = new RevokedKeys({ store, clock, credentialTtlMs: config.credentialTtlMs });
    const broker = await startBroker({
      dataDir: config.dataDir,
      log: log.child({ part: 'broker' }),
      clock,
      credentialTtlMs: config.credentialTtlMs,
      revokedKeys: () => revokedKeys.list(),
      ...exposure.brokerOptions,
    });
    stack.defer(() => broker.close());
    const { bus } = broker;

    const signer = stack.use(
      await KeyFileSigner.open({
        dataDir: config.dataDir,
        keyLifeMs: config.signing.keyLifeMs,
        credentialTtlMs: config.credentialTtlMs,
        clock,
        log: log.child({ part: 'signing' }),
        onReplaced: (before, now) => {
          const message = `${before.join(', ') || 'none'} by ${now}, which agents ask the API for`;
          audit.note({ ...nobody, kind: 'system', method: '', code: 'signing_key_replaced', message });
        },
      }),
    );
    const reconciler = await startReconciler({
      store,
      bus,
      signer,
      access: revokedKeys.remembering(broker.access),
      clock,
      log: log.child({ part: 'reconcile' }),
      audit,
      heartbeatMs: config.heartbeatMs,
      keepChanges: config.keepChanges,
      trustDigest: () => exposure.trustDigest(),
      registry,
    });
    stack.defer(() => reconciler.close());

    const { authenticator } = stack.use(
      await openAuthenticators({
        config: auth,
        dataDir,
        store,
        clock,
        log: log.child({ part: 'auth' }),
        registry,
        onChange: (code, message) => audit.note({ ...nobody, kind: 'system', method: '', code, message }),
      }),
    );

    const api = await createApi({
      store,
      openWatch,
      signer,
      bus,
      ...reconciler,
      authenticator,
      defaultQuota: config.defaultQuota,
      audit,
      callerLimit: { perSecond: auth.callerRate, burst: auth.callerBurst },
      guard: { maxStreams: auth.callerStreams },
      proofs: createNodeProofs({ clock }),
      clock,
      log: log.child({ part: 'api' }),
      registry,
      version,
      joinCommandPrefix: config.joinCommandPrefix,
      trust: () => exposure.trust,
    });
    stack.defer(() => api.close());
    const server = await startServer({
      host: config.host,
      port: config.port,
      api,
      registry,
      log: log.child({ part: 'server' }),
      certificate: exposure.certificate,
    });
    stack.defer(() => server.close({ graceMs }));
    exposure.listening(server.port);
    const everywhere = isWildcard(config.host);
    const url = (everywhere ? exposure.trust.serverUrls[0] : undefined) ?? server.url;
    log.info({ url, version, data: config.dataDir }, 'ready');
    const built = stack.move();
    return {
      url,
      listensOn: everywhere ? `${config.host}:${server.port}` : undefined,
      stop: () => built.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}
