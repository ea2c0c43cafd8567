import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { Logger } from 'pino';
import { Registry } from 'prom-client';
import { ErrorReason } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type Credentials, CredentialsSchema } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import type { NodeAddress } from '../../proto/subjects.ts';
import type { AuditLog } from '../audit/port.ts';
import type { Access, Bus, MessageSigner } from '../broker/port.ts';
import { decode } from '../domain/record.ts';
import { createUidSource } from '../domain/uid.ts';
import type { Store, StoredObject } from '../store/port.ts';
import { BayFinalizer } from './bay_finalizer.ts';
import { CheckRelay } from './check_relay.ts';
import { Connections } from './connections.ts';
import { endingStreams } from './cut_off.ts';
import { Dispatcher } from './dispatcher.ts';
import { Effects } from './effects.ts';
import { Inventory } from './inventory.ts';
import { LivenessTracker } from './liveness.ts';
import { createReconcileMetrics } from './metrics.ts';
import { NodeFinalizer } from './node_finalizer.ts';
import { Placer } from './placer.ts';
import type { Checks, Liveness, Placement, Publications, Streams } from './port.ts';
import { RefusedError } from './refused.ts';
import { Reporting } from './reports.ts';
import { Sessions } from './sessions.ts';
import { StreamRelay } from './stream_relay.ts';
import { startUplink } from './uplink.ts';

/** Options of {@link startReconciler}. */
export interface ReconcilerOptions {
  readonly store: Store;
  readonly bus: Bus;
  readonly signer: MessageSigner;
  readonly access: Access;
  readonly clock: { now(): number };
  readonly log: Logger;
  /** How often agents are to say how they are. Default 10 s. They are believed for three times as long. */
  readonly heartbeatMs?: number;
  /** How many changes the feed keeps. Default 100,000. */
  readonly keepChanges?: number;
  /** Of the TrustBundle that agents should have. */
  readonly trustDigest?: () => Uint8Array;
  /** How long request ids are remembered. Default 24 h. */
  readonly keepRequestsMs?: number;
  /** Where to say what was ended, and what agents have done. Default: nowhere. */
  readonly audit?: Pick<AuditLog, 'note'>;
  /** Where to count. Default: nowhere that anybody reads. */
  readonly registry?: Registry;
}

/** What the rest of the control plane sees of it. */
export interface Reconciler {
  /** That of its options, which also ends what is open through whom it revokes. */
  readonly access: Access;
  readonly liveness: Liveness;
  readonly placement: Placement;
  readonly publications: Publications;
  readonly streams: Streams;
  readonly checks: Checks;
  close(): Promise<void>;
}

/** How long a dropped agent may take to come back before its node counts as silent. */
const reconnectGraceMs = 2_000;
const sweepMs = 1_000;
const compactMs = 60_000;
/** However few changes there are, of half a megabyte each at most: nobody fills the disk by changing one object again and again. */
const keepBytes = 4 * 1024 ** 3;
/** How often it is looked for nodes that were to go and have not. */
const leftoversMs = 5_000;

/** Starts everything that keeps bays and store in step: sessions, delivery, reports, liveness, placing, ends of bays, compaction. */
export async function startReconciler(options: ReconcilerOptions): Promise<Reconciler> {
  const { store, bus, signer, clock, log, audit = { note: () => undefined } } = options;
  const heartbeatMs = options.heartbeatMs ?? 10_000;
  const liveness = new LivenessTracker({ trustMs: 3 * heartbeatMs, reconnectGraceMs, clock });
  const inventory = new Inventory(liveness);
  const endInventory = await inventory.start(store);
  const sessionOf = (nodeUid: string) => sessions.nonceOf(nodeUid);
  const streams = new StreamRelay({ bus, signer, sessionOf, heartbeatMs });
  const checks = new CheckRelay({ bus, signer, sessionOf });
  const metrics = createReconcileMetrics(options.registry ?? new Registry(), () => ({
    nodes: inventory.nodeCount,
    freshNodes: liveness.freshCount,
    sessions: sessions.count,
    streams: streams.open,
    unplaced: inventory.unplacedCount,
  }));
  const dispatcher = new Dispatcher({
    metrics,
    store,
    bus,
    signer,
    clock,
    log,
    chainOf: (address) => inventory.chainOf(address),
    onHead: (nodeUid, revision) => liveness.assigned(nodeUid, revision),
  });
  const connections = new Connections({
    bus,
    access: options.access,
    inventory,
    liveness,
    onGone: (nodeUid) => streams.agentGone(nodeUid),
  });
  const access = endingStreams({ access: options.access, inventory, streams, connections, audit });
  const sessions = new Sessions({
    store,
    liveness,
    dispatcher,
    heartbeatMs,
    metrics,
    isShared: (bayUid) => inventory.isShared(bayUid),
    signingKey: () => signer.keyId,
    trustDigest: options.trustDigest,
    clock,
    log,
    connections: (nodeUid) => connections.count(nodeUid),
    onBegun: (nodeUid) => streams.agentGone(nodeUid),
  });
  const onForbidden = (bayUid: string, uid: string) => {
    placer.forbidden(bayUid, uid);
    place();
  };
  const reporting = new Reporting({
    store,
    liveness,
    inventory,
    effects: new Effects(audit),
    clock,
    newUid: createUidSource(),
    onForbidden,
  });
  const placer = new Placer({ store, inventory, log });
  const bayFinalizer = new BayFinalizer({ store, inventory, access, clock, log });
  const nodeFinalizer = new NodeFinalizer({ store, inventory, access, clock, log });

  const renew = async (address: NodeAddress): Promise<Credentials> => {
    const node = inventory.node(address.nodeUid);
    const bay = await store.get({ uid: address.bayUid });
    if (!node || !bay) throw new RefusedError(ErrorReason.REVOKED, 'this node is not known here any more');
    const issued = await access.issue({ ...address, publicKey: node.publicKey, name: node.name });
    return create(CredentialsSchema, {
      project: node.project,
      bayUid: bay.uid,
      bay: bay.name,
      nodeUid: node.uid,
      node: node.name,
      userJwt: issued.userJwt,
      issueTime: timestampFromMs(issued.issueTimeMs),
      expireTime: timestampFromMs(issued.expireTimeMs),
      brokerUrls: [...access.urls],
      signingKeys: signer.keys(),
      containerEngine: decode('Bay', bay).spec?.containerEngine,
    });
  };

  // Each of these does all there is to do, however often it is asked: one run at a time, and one more when asked meanwhile.
  const place = coalesced(() => placer.run(), log, 'placing');
  const finalize = coalesced(() => bayFinalizer.run(), log, 'ending bays');
  const finalizeNodes = coalesced(() => nodeFinalizer.run(), log, 'ending nodes');

  const look = (bayUid: string | undefined) => {
    if (bayUid === undefined) return;
    placer.look(bayUid);
    place();
  };
  // Whoever made it found no node; one may have come in the meantime, or it has lost the node that it had.
  const mayBePlaced = (op: string, object: StoredObject) =>
    op === 'put' &&
    object.kind === 'Container' &&
    object.assigneeUid === '' &&
    !object.deleting &&
    inventory.choose(object.bayUid, '') !== undefined;

  const ends = [
    endInventory,
    dispatcher.start(),
    connections.start(),
    startUplink({
      bus,
      signer,
      sessions,
      dispatcher,
      reporting,
      renew,
      trustDigest: options.trustDigest,
      log,
      metrics,
    }),
    liveness.subscribe((nodeUid) => {
      const node = inventory.node(nodeUid);
      if (!node) return;
      if (liveness.node(nodeUid)?.fresh) look(node.bayUid);
      else {
        sessions.silent(nodeUid).catch((error: unknown) => log.warn({ node: nodeUid, error }, 'silence not written'));
      }
    }),
    store.subscribe((changes) => {
      for (const { object, op } of changes) {
        if (object.kind === 'Node') {
          if (op === 'remove') sessions.forget(object.uid);
          look(object.bayUid);
        } else if (mayBePlaced(op, object)) look(object.bayUid);
        if (inventory.deletingBays().length > 0) finalize();
      }
    }),
  ];
  const sweep = setInterval(() => liveness.sweep(), sweepMs);
  const leftovers = setInterval(() => {
    if (inventory.deletingNodes().length > 0) finalizeNodes();
  }, leftoversMs);
  const compact = setInterval(() => {
    const keepFrom = store.revision - (options.keepChanges ?? 100_000);
    const requestsBeforeMs = clock.now() - (options.keepRequestsMs ?? 24 * 3_600_000);
    store
      .compact(Math.max(0, keepFrom), requestsBeforeMs, keepBytes)
      .catch((error: unknown) => log.warn({ error }, 'compaction failed, trying again later'));
  }, compactMs);
  for (const bayUid of inventory.baysWithUnplaced()) look(bayUid);
  finalize();
  finalizeNodes();

  return {
    access,
    liveness,
    placement: inventory,
    publications: dispatcher,
    streams,
    checks,
    close: async () => {
      clearInterval(sweep);
      clearInterval(leftovers);
      clearInterval(compact);
      for (const end of ends) end();
      await Promise.all([place.settled(), finalize.settled(), finalizeNodes.settled()]);
    },
  };
}

/** Runs `work` once at a time, and once more when it was asked for while it ran. A failure is logged and tried again after a second. */
function coalesced(work: () => Promise<void>, log: Logger, what: string): (() => void) & { settled(): Promise<void> } {
  let running: Promise<void> | undefined;
  let again = false;
  const run = async () => {
    do {
      again = false;
      try {
        await work();
      } catch (error) {
        log.warn({ error, what }, 'reconciling failed, trying again');
        setTimeout(ask, 1_000).unref();
      }
    } while (again);
  };
  const ask = () => {
    if (running) again = true;
    else {
      running = run().finally(() => {
        running = undefined;
      });
    }
  };
  return Object.assign(ask, { settled: async () => running });
}
