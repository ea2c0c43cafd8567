import { randomUUID } from 'node:crypto';
import { create, type JsonObject } from '@bufbuild/protobuf';
import type { ExecutionContext } from 'ava';
import type { RunningWorkloads } from '../../agent/agent.ts';
import { type Clock, systemClock } from '../../agent/clock.ts';
import type { DockerSide } from '../../agent/cluster/containers_side.ts';
import { createClusterWorkloads } from '../../agent/cluster/workloads.ts';
import type { ClusterDriver } from '../../agent/drivers/cluster_driver.ts';
import { KubernetesDriver } from '../../agent/drivers/kubernetes/driver.ts';
import { type Log, silentLog } from '../../agent/log.ts';
import type { ClusterReports, Desired, DesiredObject, DesiredState } from '../../agent/ports.ts';
import {
  type Assignment,
  AssignmentOp,
  AssignmentSchema,
  type NodeReport,
  type ObjectReport,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { type PodStatus, PodStatusSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import type { ReplicationControllerStatus } from '../../proto/gen/baykeeper/v1/replication_controller_pb.js';
import type { ServiceStatus } from '../../proto/gen/baykeeper/v1/service_pb.js';
import type { Kubernetes } from './kubernetes/cluster.ts';
import { SettablePolicy } from './settable_policy.ts';
import { until } from './until.ts';

/** A desired state that tests write. It outlives agents, as the file of a real one does. */
export class SettableDesired implements Desired {
  current: DesiredState = { complete: true, objects: new Map(), graves: new Set() };
  readonly #listeners = new Set<(uids: readonly string[]) => void>();

  subscribe(listener: (uids: readonly string[]) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async buried(uid: string): Promise<void> {
    if (!this.current.graves.has(uid)) return;
    this.set({ graves: new Set([...this.current.graves].filter((one) => one !== uid)) }, [uid]);
  }

  set(change: Partial<DesiredState>, uids: readonly string[]): void {
    this.current = { ...this.current, ...change };
    for (const listener of this.#listeners) listener(uids);
  }

  assign(...assignments: readonly Assignment[]): void {
    const objects = new Map(this.current.objects);
    const now = Date.now();
    for (const assignment of assignments) {
      const object: DesiredObject = { assignment, publishTimeMs: now, receiveTimeMs: now };
      objects.set(assignment.uid, object);
    }
    this.set(
      { objects },
      assignments.map(({ uid }) => uid),
    );
  }

  /** It is no longer in the set. @param grave Whether that was said in so many words. */
  drop(uid: string, grave = true): void {
    const objects = new Map(this.current.objects);
    objects.delete(uid);
    const graves = grave ? new Set([...this.current.graves, uid]) : this.current.graves;
    this.set({ objects, graves }, [uid]);
  }
}

/** The latest word on everything. */
export class RecordedReports implements ClusterReports {
  readonly latest = new Map<string, ObjectReport>();
  /** In order. */
  readonly all: ObjectReport[] = [];
  readonly nodes = new Map<string, NodeReport>();

  put(report: ObjectReport): void {
    this.latest.set(report.uid, report);
    this.all.push(report);
  }

  putNode(report: NodeReport): void {
    if (report.removed) this.nodes.delete(report.name);
    else this.nodes.set(report.name, report);
  }

  putNodes(reports: readonly NodeReport[]): void {
    this.nodes.clear();
    for (const report of reports) this.nodes.set(report.name, report);
  }
}

export type AnyStatus = PodStatus | ServiceStatus | ReplicationControllerStatus;

export interface ObjectInput {
  readonly uid?: string;
  readonly namespace?: string;
  readonly generation?: bigint;
  readonly labels?: Record<string, string>;
  readonly annotations?: Record<string, string>;
  readonly metadata?: JsonObject;
  readonly adopt?: boolean;
  readonly createNamespace?: boolean;
}

const cases = {
  Pod: { kind: Kind.POD, case: 'pod' },
  Service: { kind: Kind.SERVICE, case: 'service' },
  ReplicationController: { kind: Kind.REPLICATION_CONTROLLER, case: 'replicationController' },
} as const;

/** An assignment that makes an object so. */
export function putAssignment(
  kind: keyof typeof cases,
  name: string,
  manifest: JsonObject,
  input: ObjectInput = {},
): Assignment {
  const { uid = randomUUID(), namespace = '', generation = 1n, labels = {}, annotations = {} } = input;
  const { metadata, adopt, createNamespace } = input;
  return create(AssignmentSchema, {
    uid,
    kind: cases[kind].kind,
    op: AssignmentOp.PUT,
    namespace,
    name,
    generation,
    labels,
    annotations,
    spec: { case: cases[kind].case, value: { manifest, metadata, adopt, createNamespace } } as Assignment['spec'],
  });
}

export interface BedOptions {
  /** Default: the admin's. */
  readonly kubeconfig?: string;
  readonly nodeName?: string;
  readonly docker?: DockerSide;
  readonly log?: Log;
  /** Makes a driver that does something else. */
  readonly wrap?: (driver: ClusterDriver) => ClusterDriver;
  readonly clock?: Clock;
  readonly bayUid?: string;
  readonly desired?: SettableDesired;
  readonly concurrency?: number;
  /** Default: a short one. */
  readonly lease?: typeof shortLease;
}

export const noDocker: DockerSide = {
  isThere: async () => false,
  version: async () => '',
  create: async () => {
    throw new Error('there is none');
  },
};

/** An agent that is killed is followed by the next within about two seconds. */
const shortLease = { leaseDurationMs: 2_000, renewDeadlineMs: 1_400, retryPeriodMs: 250 };

/** The engine half of an agent on a real cluster. */
export class ClusterBed {
  readonly cluster: Kubernetes;
  readonly bayUid: string;
  readonly desired: SettableDesired;
  readonly reports = new RecordedReports();
  readonly policy = new SettablePolicy();
  readonly #options: BedOptions;
  #driver: ClusterDriver;
  #workloads: RunningWorkloads;

  constructor(t: ExecutionContext, cluster: Kubernetes, options: BedOptions = {}) {
    this.cluster = cluster;
    this.#options = options;
    this.bayUid = options.bayUid ?? randomUUID();
    this.desired = options.desired ?? new SettableDesired();
    [this.#driver, this.#workloads] = this.#make();
    t.teardown(() => this.stop());
  }

  get workloads(): RunningWorkloads {
    return this.#workloads;
  }

  get leads(): boolean {
    return this.#workloads.cluster?.leads === true;
  }

  async stop(): Promise<void> {
    await this.#workloads.stop();
  }

  /** Ends it as kill -9 would: nothing more is sent, and nobody is told. */
  crash(): void {
    this.#driver.close();
  }

  /** The next process, with what is on disk. */
  async restart(): Promise<void> {
    [this.#driver, this.#workloads] = this.#make();
  }

  #make(): [ClusterDriver, RunningWorkloads] {
    const { kubeconfig = this.cluster.kubeconfig, wrap = (one) => one } = this.#options;
    const {
      docker = noDocker,
      log = silentLog,
      clock = systemClock,
      nodeName = 'master-1',
      concurrency,
      lease = shortLease,
    } = this.#options;
    const driver = wrap(new KubernetesDriver({ kubeconfig, context: '', userAgent: nodeName }));
    const workloads = createClusterWorkloads({
      driver,
      docker,
      desired: this.desired,
      reports: this.reports,
      bayUid: this.bayUid,
      nodeName,
      leaseNamespace: 'baykeeper',
      clock,
      log,
      policy: this.policy,
      lease,
      concurrency,
    });
    void workloads.start();
    return [driver, workloads];
  }

  put(kind: keyof typeof cases, name: string, manifest: JsonObject, input: ObjectInput = {}): string {
    const assignment = putAssignment(kind, name, manifest, input);
    this.desired.assign(assignment);
    return assignment.uid;
  }

  /** The same with another spec, as the next generation. */
  change(uid: string, manifest: JsonObject, input: ObjectInput = {}): void {
    const assignment = this.#assignmentOf(uid);
    const before = assignment.spec.value ?? {};
    const { labels = assignment.labels, annotations = assignment.annotations, ...spec } = input;
    this.desired.assign({
      ...assignment,
      generation: assignment.generation + 1n,
      labels,
      annotations,
      spec: { ...assignment.spec, value: { ...before, ...spec, manifest } } as Assignment['spec'],
    });
  }

  /** Its end is asked for. */
  delete(uid: string): void {
    const assignment = this.#assignmentOf(uid);
    this.desired.assign({ ...assignment, op: AssignmentOp.DELETE, generation: assignment.generation + 1n });
  }

  #assignmentOf(uid: string): Assignment {
    const object = this.desired.current.objects.get(uid);
    if (!object) throw new Error(`there is no ${uid}`);
    return object.assignment;
  }

  status(uid: string): AnyStatus | undefined {
    const status = this.reports.latest.get(uid)?.status;
    return status?.case === 'container' ? undefined : status?.value;
  }

  isRemoved(uid: string): boolean {
    return this.reports.latest.get(uid)?.removed === true;
  }

  /** Resolves when the status of an object is as asked for, at its newest generation. */
  async shows<S extends AnyStatus = AnyStatus>(
    uid: string,
    what: string,
    is: (status: S) => boolean,
    timeoutMs = 20_000,
  ): Promise<S> {
    return await until(
      what,
      () => {
        const status = this.status(uid) as S | undefined;
        if (status && is(status)) return status;
        const { phase, reason, message } = status ?? create(PodStatusSchema);
        throw new Error(`it shows phase ${phase} ${reason}: ${message}`);
      },
      { timeoutMs },
    );
  }

  /** Resolves when the newest generation is applied. */
  async applied(uid: string): Promise<AnyStatus> {
    const { generation } = this.#assignmentOf(uid);
    return await this.shows(
      uid,
      `generation ${generation} is applied`,
      ({ delivery }) => delivery?.appliedGeneration === generation && delivery.observedGeneration === generation,
    );
  }

  async removed(uid: string): Promise<void> {
    await until('it is removed', () => {
      if (this.isRemoved(uid)) return true;
      const { phase, reason, message } = this.status(uid) ?? create(PodStatusSchema);
      throw new Error(`it shows phase ${phase} ${reason}: ${message}`);
    });
  }
}
