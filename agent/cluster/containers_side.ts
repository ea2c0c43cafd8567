import { create } from '@bufbuild/protobuf';
import {
  type Assignment,
  AssignmentOp,
  type ObjectReport,
  ObjectReportSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import type { RunningWorkloads } from '../agent.ts';
import type { Clock } from '../clock.ts';
import { deliveryOf } from '../delivery.ts';
import type { Log } from '../log.ts';
import type { Desired, DesiredObject, Reports } from '../ports.ts';
import { DesiredPart } from './desired_part.ts';

/** The Docker engine of this machine, for the containers of a Kubernetes bay. */
export interface DockerSide {
  /** Whether there is one. Never rejects. */
  isThere(): Promise<boolean>;
  /** Rejects when it does not answer. */
  version(): Promise<string>;
  /** What makes it agree with a desired state of containers only. */
  create(desired: Desired): Promise<RunningWorkloads>;
}

export interface ContainersSideOptions {
  readonly docker: DockerSide;
  readonly desired: Desired;
  readonly reports: Reports;
  readonly nodeName: string;
  /** Nothing of this one is left on the engine. */
  readonly buried: (uid: string) => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
}

const isContainer = ({ kind }: Assignment): boolean => kind === Kind.CONTAINER;
/** How often it is looked whether there is an engine by now. */
const lookMs = 10_000;

/**
 * Of an agent in its bay: it leads; it knows that another one does; or it knows neither, as when it cannot ask the cluster.
 */
export type Standing = 'leads' | 'follows' | 'idle';

/** What a node should have of containers that another one runs. */
const nothing: Desired = {
  current: { complete: true, objects: new Map(), graves: new Set() },
  subscribe: () => () => undefined,
  buried: async () => undefined,
};

/**
 * Runs a Kubernetes bay's containers on the Docker engine of the master that leads; or says that it has none. Who led before lets go of them once
 * it knows that another leads. Until then, and while nothing is known, they go on (agent/adr/0001).
 */
export class ContainersSide {
  readonly #options: ContainersSideOptions;
  readonly #desired: DesiredPart;
  #standing: Standing = 'idle';
  #running: { readonly as: Standing; readonly loop: RunningWorkloads } | undefined;
  /** It was looked whether there is an engine, and there is none. */
  #hasNone = false;
  #cancelLook: () => void = () => undefined;
  #unsubscribe: () => void = () => undefined;
  #changing: Promise<void> = Promise.resolve();

  constructor(options: ContainersSideOptions) {
    this.#options = options;
    this.#desired = new DesiredPart(options.desired, isContainer, options.buried);
  }

  /** While there is an engine, and this agent leads. */
  get loop(): RunningWorkloads | undefined {
    return this.#running?.as === 'leads' ? this.#running.loop : undefined;
  }

  /** Resolves when it is so. */
  async become(standing: Standing): Promise<void> {
    this.#standing = standing;
    this.#changing = this.#changing.then(() => this.#follow());
    await this.#changing;
  }

  snapshot(): readonly ObjectReport[] {
    if (this.#standing !== 'leads') return [];
    if (this.loop) return this.loop.snapshot();
    return this.#hasNone ? [...this.#desired.current.objects.values()].map((one) => this.#without(one)) : [];
  }

  /** How many containers were not looked at yet. */
  get unseen(): number {
    if (this.#standing !== 'leads' || this.#hasNone) return 0;
    return this.loop ? (this.loop.unseen ?? 0) : this.#desired.current.objects.size;
  }

  /** Never rejects. */
  async #follow(): Promise<void> {
    const standing = this.#standing;
    if (this.#running?.as === standing) return;
    this.#cancelLook();
    this.#unsubscribe();
    const before = this.#running;
    this.#running = undefined;
    if (standing !== 'leads') this.#hasNone = false;
    await before?.loop.stop();
    if (standing === 'idle') return;
    const { docker, clock, log } = this.#options;
    try {
      if (await docker.isThere()) {
        const loop = await docker.create(standing === 'leads' ? this.#desired : nothing);
        this.#running = { as: standing, loop };
        this.#hasNone = false;
        await loop.start();
        return;
      }
    } catch (error) {
      log.error({ error: (error as Error).message }, 'the Docker engine of this machine cannot be used');
    }
    this.#cancelLook = clock.after(lookMs, () => void this.become(this.#standing));
    if (standing !== 'leads') return;
    this.#hasNone = true;
    this.#unsubscribe = this.#desired.subscribe((uids) => this.#report(uids));
    this.#report([...this.#desired.current.objects.keys()]);
  }

  #report(uids: readonly string[]): void {
    const { objects, graves } = this.#desired.current;
    for (const uid of uids) {
      const object = objects.get(uid);
      if (object) this.#options.reports.put(this.#without(object));
      if (graves.has(uid)) void this.#desired.buried(uid);
    }
  }

  /** What is to be said of a container where there is no engine. */
  #without({ assignment, publishTimeMs, receiveTimeMs }: DesiredObject): ObjectReport {
    const { uid, op, generation } = assignment;
    // Nothing of it is on an engine that is not there; what is on one that comes back and is not wanted is removed then.
    if (op === AssignmentOp.DELETE) return create(ObjectReportSchema, { uid, removed: true });
    const { nodeName, clock } = this.#options;
    return create(ObjectReportSchema, {
      uid,
      status: {
        case: 'container',
        value: {
          node: nodeName,
          phase: ContainerPhase.FAILED,
          reason: 'NoDockerEngine',
          message: `${nodeName}, which leads the bay, has no Docker engine for containers: run one there, or make a pod of it`,
          delivery: deliveryOf({
            receivedGeneration: generation,
            appliedGeneration: 0n,
            observedGeneration: generation,
            publishMs: publishTimeMs,
            receiveMs: receiveTimeMs,
            applyMs: undefined,
            observeMs: clock.now(),
          }),
        },
      },
    });
  }
}
