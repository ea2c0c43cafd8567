import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { Delivery } from '../../agent/link/delivery.ts';
import { LinkError } from '../../agent/link/link.ts';
import { DesiredStore } from '../../agent/link/state.ts';
import { silentLog } from '../../agent/log.ts';
import {
  type Assign,
  SyncReplySchema,
  type SyncRequest,
  SyncRequestSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ChainModel, chunksOf } from './chain_model.ts';
import { FakeClock } from './fake_clock.ts';
import { FakeWorkloads } from './fake_workloads.ts';
import { testSigner, testVerifier } from './signing.ts';

/** Of the node whose messages these are. */
export const address = { bayUid: 'bay-1', nodeUid: 'node-1' };
/** What the agent believes. */
export const verifier = testVerifier(address);
/** What is drawn for a session. */
export const nonceOf = (epoch: bigint) => new Uint8Array(16).fill(Number(epoch % 256n));
/** As the control plane sends it. */
export const signed = (assign: Assign) => testSigner.assign(address, assign, nonceOf(assign.epoch));

/** An answer to a sync, as the control plane gives it. */
export const reply = ({ nonce }: SyncRequest, init: MessageInitShape<typeof SyncReplySchema>) =>
  testSigner.seal(
    { ...address, purpose: 'sync-reply', nonce },
    toBinary(SyncReplySchema, create(SyncReplySchema, init)),
  );

/** A control plane and an agent's Delivery, with a wire between them that a test holds in its hands. */
export class Bed {
  readonly clock = new FakeClock();
  chain = new ChainModel();
  readonly wire: Uint8Array[] = [];
  readonly syncs: SyncRequest[] = [];
  epoch = 1n;
  /** Whether the control plane can be reached. */
  up = true;
  chunkBytes = 150;
  /** What a broker makes of an answer. */
  meddle: (answer: Uint8Array) => Uint8Array = (answer) => answer;
  /** Most chunks are sent under the session's epoch. */
  store!: DesiredStore;
  delivery!: Delivery;
  workloads!: FakeWorkloads;
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  async start(): Promise<void> {
    const { clock } = this;
    const running = this.workloads?.running ?? new Map<string, bigint>();
    const removals = this.workloads?.removals ?? [];
    this.store = await DesiredStore.open({ ...address, path: this.#path, verifier, clock, log: silentLog });
    this.workloads = new FakeWorkloads({ desired: this.store, reports: { put() {} } });
    for (const [uid, generation] of running) this.workloads.running.set(uid, generation);
    this.workloads.removals.push(...removals);
    this.workloads.start();
    this.delivery = new Delivery({
      address,
      link: { request: (_, data) => this.#request(data) },
      store: this.store,
      verifier,
      onRefused: () => undefined,
      onOtherSession: () => undefined,
      onHeard: () => undefined,
      clock,
      log: silentLog,
      random: () => 0.5,
    });
    this.delivery.open(this.epoch, nonceOf(this.epoch));
  }

  async restart(): Promise<void> {
    this.delivery.close();
    await this.store.close();
    this.epoch += 1n;
    await this.start();
  }

  publish(...assigns: Assign[]): void {
    for (const assign of assigns) this.wire.push(signed(assign));
  }

  async settle(): Promise<void> {
    await this.clock.advance(0);
    await this.store.settled();
    await this.clock.advance(0);
  }

  async arriveAll(): Promise<void> {
    for (const data of this.wire.splice(0)) this.delivery.receive(data);
    await this.settle();
  }

  get converged(): boolean {
    const { store, chain } = this;
    return (
      store.revision === chain.revision && Buffer.from(store.digest).equals(chain.digest) && store.current.complete
    );
  }

  async #request(data: Uint8Array): Promise<Uint8Array> {
    if (!this.up) throw new LinkError('away');
    const request = fromBinary(SyncRequestSchema, data);
    this.syncs.push(request);
    const { chain, epoch } = this;
    const { appliedRevision } = request;
    const same = appliedRevision === chain.revision && Buffer.from(chain.digest).equals(request.digest);
    const delta = chain.links.some((link) => link.to === appliedRevision)
      ? chain.since(epoch, appliedRevision)
      : undefined;
    if (!same || appliedRevision === 0n) {
      if (delta) this.publish(delta);
      else this.publish(...chunksOf(epoch, chain.snapshot(), this.chunkBytes));
    }
    return this.meddle(reply(request, { revision: chain.revision }));
  }
}

/** One that has started, and has what there is. */
export async function bed(t: { teardown(fn: () => Promise<void>): void }): Promise<Bed> {
  const folder = await mkdtemp(join(tmpdir(), 'agent-delivery-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const made = new Bed(join(folder, 'state.bin'));
  await made.start();
  await made.settle();
  await made.arriveAll();
  return made;
}
