import { randomUUID } from 'node:crypto';
import {
  type Assignment,
  AssignmentOp,
  type NodeReport,
  type ObjectReport,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { NodeStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { RunningWorkloads } from '../agent.ts';
import type { Clock } from '../clock.ts';
import { type ClusterDriver, type Election, resourceTypes } from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import type { HealthThresholds } from '../health.ts';
import type { Log } from '../log.ts';
import type { PolicySource } from '../policy.ts';
import { type Cluster, type ClusterReports, type Desired, StreamError, type Workloads } from '../ports.ts';
import { check } from './check.ts';
import { ClusterHealth } from './cluster_health.ts';
import { ContainersSide, type DockerSide, type Standing } from './containers_side.ts';
import { Burials, DesiredPart } from './desired_part.ts';
import { KeptAddresses } from './kept_addresses.ts';
import { ClusterLoop } from './loop.ts';
import { type Manifest, manifestOf, namespaceOf } from './manifest.ts';
import { Namespaces } from './namespaces.ts';
import { Nodes } from './nodes.ts';
import { clusterKindOf } from './plan.ts';
import { openPodExecute, openPodLogs } from './streams.ts';

export interface ClusterWorkloadsOptions {
  readonly driver: ClusterDriver;
  readonly docker: DockerSide;
  readonly desired: Desired;
  readonly reports: ClusterReports;
  readonly bayUid: string;
  readonly nodeName: string;
  /** Of the Lease by which the bay's masters agree on who leads. The same for all of them. */
  readonly leaseNamespace: string;
  /** What the node's owner allows. */
  readonly policy: PolicySource;
  readonly clock: Clock;
  readonly log: Log;
  /** How many objects are worked on at a time. Default 32. */
  readonly concurrency?: number;
  /** Of the lease. Default: the driver's. */
  readonly lease?: {
    readonly leaseDurationMs: number;
    readonly renewDeadlineMs: number;
    readonly retryPeriodMs: number;
  };
  readonly thresholds?: HealthThresholds;
  /** In [0, 1). Default `Math.random`. */
  readonly random?: () => number;
}

export function createClusterWorkloads(options: ClusterWorkloadsOptions): RunningWorkloads {
  return new ClusterWorkloads(options);
}

const leaseNameOf = (bayUid: string): string => `baykeeper-${bayUid}`;

/** What an agent does while it leads. */
interface Term {
  readonly loop: ClusterLoop;
  readonly nodes: Nodes;
}

/** How long a request under way may hold up the end. */
const stopPatienceMs = 5_000;
/** Engines that something of a bay's objects may be on. */
const kubernetes = 'kubernetes';
const docker = 'docker';

/** The engine half of an agent of a Kubernetes bay. All of a bay's agents have its whole desired state; the one that leads sees to it. */
class ClusterWorkloads implements RunningWorkloads, Cluster {
  readonly #options: ClusterWorkloadsOptions;
  readonly #desired: DesiredPart;
  readonly #containers: ContainersSide;
  readonly #health: ClusterHealth;
  readonly #leadListeners = new Set<() => void>();
  readonly #nodeListeners = new Set<() => void>();
  /** What is to be applied is worked out once for each assignment. */
  readonly #manifests = new WeakMap<Assignment, { readonly manifest: Manifest | undefined }>();
  #election: Election | undefined;
  #electionProblem: ClusterError | undefined;
  #term: Term | undefined;
  /** It is known that another one leads. */
  #follows = false;
  #ending: Promise<void> = Promise.resolve();
  #unsubscribe: () => void = () => undefined;

  constructor(options: ClusterWorkloadsOptions) {
    const { desired, docker: dockerSide } = options;
    this.#options = options;
    const burials = new Burials(desired, () => (this.#containers.loop ? [kubernetes, docker] : [kubernetes]));
    this.#desired = new DesiredPart(
      desired,
      (assignment) => clusterKindOf(assignment) !== undefined,
      (uid) => burials.confirm(kubernetes, uid),
    );
    this.#containers = new ContainersSide({
      ...options,
      docker: dockerSide,
      buried: (uid) => burials.confirm(docker, uid),
    });
    this.#health = new ClusterHealth(options);
  }

  get cluster(): Cluster {
    return this;
  }

  get leads(): boolean {
    return this.#term !== undefined && this.#election?.leads === true;
  }

  start(): void {
    const { driver, desired, bayUid, nodeName, leaseNamespace, lease, policy } = this.#options;
    const unsubscribe = [
      desired.subscribe(() => {
        this.#buryAsStandby();
        if (!this.#term) void this.#containers.become(this.#standing());
      }),
      policy.subscribe(() => this.#tell(this.#nodeListeners)),
    ];
    this.#unsubscribe = () => {
      for (const end of unsubscribe) end();
    };
    this.#election = driver.elect({
      namespace: leaseNamespace,
      name: leaseNameOf(bayUid),
      identity: `${nodeName}_${randomUUID()}`,
      ...lease,
      onChange: (leads) => this.#onElected(leads),
      onFollowing: (follows) => this.#onFollowing(follows),
      onProblem: (error) => this.#onElectionProblem(error),
    });
    this.#buryAsStandby();
  }

  async stop(): Promise<void> {
    this.#unsubscribe();
    const late = new Promise<void>((resolve) => setTimeout(resolve, stopPatienceMs).unref());
    const stopped = (async () => {
      await this.#election?.stop();
      await this.#ending;
      await this.#containers.become('idle');
    })();
    await Promise.race([stopped, late]);
    this.#options.driver.close();
  }

  snapshot(): readonly ObjectReport[] {
    const term = this.leads ? this.#term : undefined;
    return term ? [...term.loop.snapshot(), ...this.#containers.snapshot()] : [];
  }

  get unseen(): number {
    const term = this.leads ? this.#term : undefined;
    return term ? term.loop.unseen + this.#containers.unseen + (term.nodes.isAwaited ? 1 : 0) : 0;
  }

  nodes(): readonly NodeReport[] | undefined {
    return this.leads ? this.#term?.nodes.all() : undefined;
  }

  async nodeStatus(): Promise<NodeStatus> {
    const usage = (await this.#containers.loop?.nodeStatus())?.usage;
    return await this.#health.status({
      watchProblems: this.#term?.loop.problems,
      electionProblem: this.#electionProblem,
      containersRunning: usage?.containersRunning ?? 0,
      containersTotal: usage?.containersTotal ?? 0,
    });
  }

  onLeads(listener: () => void): () => void {
    this.#leadListeners.add(listener);
    return () => this.#leadListeners.delete(listener);
  }

  onNodeChange(listener: () => void): () => void {
    this.#nodeListeners.add(listener);
    return () => this.#nodeListeners.delete(listener);
  }

  async check(assignment: Assignment): ReturnType<Cluster['check']> {
    const { driver, bayUid, policy } = this.#options;
    return await check(
      { driver, bayUid, policy: policy.current, manifestOf: (one) => manifestOf(one, bayUid) },
      assignment,
    );
  }

  async openPodLogs(...[uid, request, sink]: Parameters<Cluster['openPodLogs']>): ReturnType<Cluster['openPodLogs']> {
    return await openPodLogs(this.#options, uid, request, sink);
  }

  async openPodExecute(
    ...[uid, start, sink]: Parameters<Cluster['openPodExecute']>
  ): ReturnType<Cluster['openPodExecute']> {
    return await openPodExecute(this.#options, uid, start, sink);
  }

  async openLogs(...[uid, request, sink]: Parameters<Workloads['openLogs']>): ReturnType<Workloads['openLogs']> {
    return await this.#engine().openLogs(uid, request, sink);
  }

  async openExecute(...[uid, start, sink]: Parameters<Workloads['openExecute']>): ReturnType<Workloads['openExecute']> {
    return await this.#engine().openExecute(uid, start, sink);
  }

  #engine(): RunningWorkloads {
    const { loop } = this.#containers;
    if (loop) return loop;
    throw new StreamError(
      'engine-unavailable',
      `${this.#options.nodeName} runs no containers of the bay: it has no Docker engine, or does not lead`,
    );
  }

  #manifestOf(assignment: Assignment): Manifest | undefined {
    let known = this.#manifests.get(assignment);
    if (!known) {
      known = { manifest: manifestOf(assignment, this.#options.bayUid) };
      this.#manifests.set(assignment, known);
    }
    return known.manifest;
  }

  #onElected(leads: boolean): void {
    const { log } = this.#options;
    log.info({ leads }, leads ? 'this agent leads the bay from now on' : 'this agent leads the bay no longer');
    if (leads) this.#lead();
    else this.#follow();
    this.#tell(this.#leadListeners);
    this.#tell(this.#nodeListeners);
  }

  #lead(): void {
    const term = this.#election?.term;
    if (!term) return;
    const options = this.#options;
    const namespaces = new Namespaces({ ...options, term, isWanted: (namespace) => this.#isWanted(namespace) });
    const { bayUid, leaseNamespace: namespace } = options;
    const lease = { type: resourceTypes.Lease, namespace, name: `${leaseNameOf(bayUid)}-kept` };
    const addresses = new KeptAddresses({ ...options, desired: this.#desired, lease, term });
    const manifestOfAssignment = (assignment: Assignment) => this.#manifestOf(assignment);
    this.#term = {
      loop: new ClusterLoop({
        ...options,
        desired: this.#desired,
        namespaces,
        addresses,
        manifestOf: manifestOfAssignment,
        term,
        onState: () => this.#tell(this.#nodeListeners),
      }),
      nodes: new Nodes({ ...options, term }),
    };
    void this.#containers.become(this.#standing());
    void namespaces.tidyAll().catch((error: unknown) => {
      options.log.debug(
        { error: (error as Error).message },
        'the namespaces that were made here could not be looked at',
      );
    });
  }

  #follow(): void {
    const term = this.#term;
    this.#term = undefined;
    this.#ending = Promise.all([term?.loop.stop(), this.#containers.become(this.#standing())]).then(() => undefined);
    this.#buryAsStandby();
  }

  #onFollowing(follows: boolean): void {
    this.#follows = follows;
    if (!this.#term) void this.#containers.become(this.#standing());
  }

  /** Who does not know all that there should be lets go of nothing. */
  #standing(): Standing {
    if (this.#term) return 'leads';
    return this.#follows && this.#options.desired.current.complete ? 'follows' : 'idle';
  }

  #onElectionProblem(error: ClusterError | undefined): void {
    const { log, leaseNamespace } = this.#options;
    this.#electionProblem = error;
    if (error) log.warn({ error: error.message, leaseNamespace }, 'the lease of the bay cannot be used');
    if (error?.kind === 'namespace-not-found') void this.#makeLeaseNamespace();
    this.#tell(this.#nodeListeners);
  }

  /** Where nobody has prepared the cluster for us. It stays, as other masters use it. */
  async #makeLeaseNamespace(): Promise<void> {
    const { driver, leaseNamespace: name, log } = this.#options;
    try {
      await driver.create(resourceTypes.Namespace, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
    } catch (error) {
      if (error instanceof ClusterError && error.kind === 'already-exists') return;
      log.warn({ namespace: name, error: (error as Error).message }, 'the namespace of the lease cannot be made');
    }
  }

  #isWanted(namespace: string): boolean {
    for (const { assignment } of this.#desired.current.objects.values()) {
      if (assignment.op === AssignmentOp.PUT && namespaceOf(assignment) === namespace) return true;
    }
    return false;
  }

  /**
   * Graves are for whoever leads. Who does not, and knows all that there should be, needs none: should it lead one day, it finds what is too
   * much by what it knows.
   */
  #buryAsStandby(): void {
    const { desired, log } = this.#options;
    const { complete, graves } = desired.current;
    if (this.#term || !complete) return;
    for (const uid of graves) {
      desired.buried(uid).catch((error: unknown) => {
        log.warn({ uid, error: (error as Error).message }, 'a grave could not be closed');
      });
    }
  }

  #tell(listeners: ReadonlySet<() => void>): void {
    for (const listener of listeners) listener();
  }
}
