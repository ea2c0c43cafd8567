import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { CheckReplySchema, CheckRequestSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { downSubject, type NodeAddress } from '../../proto/subjects.ts';
import type { Bus, MessageSigner } from '../broker/port.ts';
import { UnavailableError } from '../domain/errors.ts';
import type { AssignedKind } from '../domain/kinds.ts';
import type { ObjectMessage } from '../domain/object.ts';
import { assignmentOfMessage } from './assignment.ts';
import type { Checks, Verdict } from './port.ts';
import { Semaphore } from './semaphore.ts';

/** Options of {@link CheckRelay}. */
export interface CheckRelayOptions {
  readonly bus: Bus;
  readonly signer: Pick<MessageSigner, 'seal'>;
  /** What an agent drew for its session; undefined: none is known. */
  readonly sessionOf: (nodeUid: string) => Uint8Array | undefined;
  /** How long the agent and its cluster may take. Default 20 s. */
  readonly timeoutMs?: number;
  /** How many checks an agent is given at a time; the others wait for their turn. Default 16. */
  readonly concurrency?: number;
}

/** Asks agents what their clusters would say to an object. */
export class CheckRelay implements Checks {
  readonly #options: Pick<CheckRelayOptions, 'bus' | 'signer' | 'sessionOf'>;
  readonly #timeoutMs: number;
  readonly #concurrency: number;
  /** By node. */
  readonly #turns = new Map<string, Semaphore>();

  constructor({ timeoutMs = 20_000, concurrency = 16, ...options }: CheckRelayOptions) {
    this.#options = options;
    this.#timeoutMs = timeoutMs;
    this.#concurrency = concurrency;
  }

  async check(target: NodeAddress, kind: AssignedKind, object: ObjectMessage): Promise<Verdict> {
    const { uid = '', namespace = '', name = '', generation = 0n } = object.metadata ?? {};
    const at = { uid, namespace, name, generation: Number(generation), revision: 0, deleting: false };
    const assignment = assignmentOfMessage(kind, object, at);
    const request = toBinary(CheckRequestSchema, create(CheckRequestSchema, { assignment }));
    const answer = await this.#ask(target, request);
    let reply: ReturnType<typeof read>;
    try {
      reply = read(answer);
    } catch (cause) {
      throw new UnavailableError('the agent answered what cannot be read', { cause });
    }
    if (reply.error) {
      throw new UnavailableError(`the agent could not ask its cluster: ${reply.error.message}`);
    }
    return reply;
  }

  async #ask(target: NodeAddress, request: Uint8Array): Promise<Uint8Array> {
    const turns = this.#turns.get(target.nodeUid) ?? new Semaphore(this.#concurrency);
    this.#turns.set(target.nodeUid, turns);
    try {
      return await turns.run(() => this.#request(target, request));
    } catch (cause) {
      // It has just gone, and nobody has noticed yet; or its cluster takes too long.
      throw new UnavailableError('the agent that leads the bay does not answer: try again', { cause });
    } finally {
      if (turns.idle) this.#turns.delete(target.nodeUid);
    }
  }

  /** Signed when it is its turn: the session may be another by then. */
  async #request({ bayUid, nodeUid }: NodeAddress, request: Uint8Array): Promise<Uint8Array> {
    const { bus, signer, sessionOf } = this.#options;
    const nonce = sessionOf(nodeUid);
    if (!nonce) throw new UnavailableError('the agent has no session');
    const sealed = signer.seal({ bayUid, nodeUid, purpose: 'check', nonce }, request);
    return bus.request(downSubject({ bayUid, nodeUid }, 'check'), sealed, this.#timeoutMs);
  }
}

const read = (answer: Uint8Array) => fromBinary(CheckReplySchema, answer);
