import { createHash, randomBytes, randomUUID } from 'node:crypto';
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import { SetDigest } from '../../proto/digest.ts';
import {
  type Assign,
  type Assignment,
  AssignmentOp,
  AssignSchema,
  type Delta,
  HeartbeatSchema,
  HelloReplySchema,
  HelloSchema,
  type ReportReply,
  ReportReplySchema,
  ReportSchema,
  type Signed,
  SignedSchema,
  SnapshotSchema,
  SyncReplySchema,
  SyncRequestSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { NodePhase, type NodeStatusSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { downSubject, type NodeAddress, type UpVerb, upSubject } from '../../proto/subjects.ts';
import type { Bus, BusMessage } from '../broker/port.ts';

/** A bus within the process, for tests: what is published is delivered at once, unless `lose` says otherwise. */
export class LocalBus implements Bus {
  readonly connected = true;
  maxPayloadBytes = 1 << 20;
  /** Asked for each published message. */
  lose: (subject: string) => boolean = () => false;
  readonly #listeners = new Map<string, Set<(message: BusMessage) => void | Promise<void>>>();

  publish(subject: string, data: Uint8Array): void {
    if (data.byteLength > this.maxPayloadBytes) throw new Error(`message of ${data.byteLength} bytes`);
    if (!this.lose(subject)) this.#deliver(subject, data, () => undefined);
  }

  async request(subject: string, data: Uint8Array): Promise<Uint8Array> {
    return new Promise((resolve) => this.#deliver(subject, data, resolve));
  }

  subscribe(subject: string, listener: (message: BusMessage) => void | Promise<void>) {
    const listeners = this.#listeners.get(subject) ?? new Set();
    this.#listeners.set(subject, listeners.add(listener));
    return { unsubscribe: () => listeners.delete(listener) };
  }

  onConnected(): () => void {
    return () => undefined;
  }

  #deliver(subject: string, data: Uint8Array, respond: (data: Uint8Array) => void): void {
    const pattern = subject.replace(/^bk\.v1\.[^.]+\.[^.]+\.up/, 'bk.v1.*.*.up');
    for (const key of new Set([subject, pattern])) {
      for (const listener of this.#listeners.get(key) ?? []) void listener({ subject, data, respond });
    }
  }
}

/** An agent as the contract describes it, without an engine: for tests of the control plane's half alone. */
export class ScriptedAgent {
  readonly address: NodeAddress;
  readonly instanceId: string = randomUUID();
  readonly objects = new Map<string, Assignment>();
  revision = 0;
  epoch = 0n;
  /** What it drew for its session. */
  session: Uint8Array = randomBytes(16);
  /** A delta came that does not fit. */
  lost = false;
  snapshots = 0;
  deltas = 0;
  readonly #bus: LocalBus;
  readonly #subscription: { unsubscribe(): void };
  #chunks: Uint8Array[] = [];
  #sequence = 0n;
  #heartbeat = 0n;

  constructor(bus: LocalBus, address: NodeAddress) {
    this.#bus = bus;
    this.address = address;
    this.#subscription = bus.subscribe(downSubject(address, 'assign'), ({ data }) =>
      this.#take(fromBinary(SignedSchema, data)),
    );
  }

  close(): void {
    this.#subscription.unsubscribe();
  }

  async hello({ leader = false } = {}) {
    const session = randomBytes(16);
    const reply = await this.#request(
      'hello',
      HelloSchema,
      { instanceId: this.instanceId, agentVersion: 'test', leader, session },
      HelloReplySchema,
    );
    if (!reply.error) {
      this.epoch = reply.epoch;
      this.session = session;
    }
    return reply;
  }

  async sync() {
    this.lost = false;
    return this.#request(
      'sync',
      SyncRequestSchema,
      {
        epoch: this.epoch,
        session: this.session,
        nonce: randomBytes(16),
        appliedRevision: BigInt(this.revision),
        digest: this.#digest(),
      },
      SyncReplySchema,
    );
  }

  heartbeat(status: MessageInitShape<typeof NodeStatusSchema> = { phase: NodePhase.READY }): void {
    this.#heartbeat += 1n;
    const message = create(HeartbeatSchema, {
      epoch: this.epoch,
      session: this.session,
      sequence: this.#heartbeat,
      appliedRevision: BigInt(this.revision),
      digest: this.#digest(),
      status,
    });
    this.#bus.publish(upSubject(this.address, 'heartbeat'), toBinary(HeartbeatSchema, message));
  }

  async report(
    objects: MessageInitShape<typeof ReportSchema>['objects'],
    more: Pick<MessageInitShape<typeof ReportSchema>, 'epoch' | 'sequence' | 'nodes' | 'allNodes' | 'pending'> = {},
  ): Promise<ReportReply> {
    this.#sequence += 1n;
    return this.#request(
      'report',
      ReportSchema,
      { epoch: this.epoch, session: this.session, sequence: this.#sequence, objects, ...more },
      ReportReplySchema,
    );
  }

  /** Reports everything as its assignment asks, as an engine that never fails would. */
  async obey(): Promise<void> {
    await this.report(
      [...this.objects.values()].map(({ uid, op, generation }) =>
        op === AssignmentOp.DELETE
          ? { uid, removed: true }
          : {
              uid,
              status: {
                case: 'container' as const,
                value: {
                  phase: ContainerPhase.RUNNING,
                  delivery: {
                    receivedGeneration: generation,
                    appliedGeneration: generation,
                    observedGeneration: generation,
                  },
                },
              },
            },
      ),
    );
  }

  #digest(): Uint8Array {
    return SetDigest.of(
      [...this.objects.values()].map(({ uid, generation, op }) => ({
        uid,
        generation,
        deleting: op === AssignmentOp.DELETE,
      })),
    ).bytes();
  }

  #take({ nonce, payload }: Signed): void {
    const { epoch, body }: Assign = fromBinary(AssignSchema, payload);
    if (epoch !== this.epoch || !Buffer.from(nonce).equals(this.session)) return;
    if (body.case === 'delta') this.#takeDelta(body.value);
    if (body.case === 'snapshot') {
      if (body.value.index === 0) this.#chunks = [];
      this.#chunks.push(body.value.data);
      if (this.#chunks.length < body.value.count) return;
      const whole = Buffer.concat(this.#chunks);
      if (!createHash('sha256').update(whole).digest().equals(body.value.sha256)) return;
      const snapshot = fromBinary(SnapshotSchema, whole);
      this.objects.clear();
      for (const assignment of snapshot.assignments) this.objects.set(assignment.uid, assignment);
      this.revision = Number(snapshot.revision);
      this.snapshots += 1;
    }
  }

  #takeDelta(delta: Delta): void {
    if (Number(delta.resultsIn) <= this.revision) return;
    if (Number(delta.appliesTo) !== this.revision) {
      this.lost = true;
      return;
    }
    for (const assignment of delta.assignments) {
      if (assignment.op === AssignmentOp.FORGET) this.objects.delete(assignment.uid);
      else this.objects.set(assignment.uid, assignment);
    }
    this.revision = Number(delta.resultsIn);
    this.deltas += 1;
  }

  async #request<Request extends DescMessage, Reply extends DescMessage>(
    verb: UpVerb,
    request: Request,
    init: MessageInitShape<Request>,
    reply: Reply,
  ): Promise<MessageShape<Reply>> {
    const data = toBinary(request, create(request, init));
    const answer = await this.#bus.request(upSubject(this.address, verb), data);
    return fromBinary(reply, verb === 'report' ? answer : fromBinary(SignedSchema, answer).payload);
  }
}
