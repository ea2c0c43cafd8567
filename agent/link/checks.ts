import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { type Assignment, CheckReplySchema, CheckRequestSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { downSubject, type NodeAddress } from '../../proto/subjects.ts';
import type { Log } from '../log.ts';
import { type Cluster, StreamError, type Workloads } from '../ports.ts';
import { isSupported } from './chain.ts';
import type { Link, LinkMessage } from './link.ts';
import { codes } from './streams.ts';
import type { Verifier } from './verifier.ts';

export interface ChecksOptions {
  readonly address: NodeAddress;
  readonly link: Pick<Link, 'subscribe' | 'maxPayloadBytes'>;
  readonly workloads: Pick<Workloads, 'cluster'>;
  readonly verifier: Pick<Verifier, 'open'>;
  /** What was drawn for the session; undefined: there is none. */
  readonly session: () => Uint8Array | undefined;
  readonly log: Log;
  /** Most checks at a time. Default 32. */
  readonly maxChecks?: number;
}

type Reply = MessageInitShape<typeof CheckReplySchema>;

/** Answers what the cluster would say to an object. */
export class Checks {
  readonly #options: Required<ChecksOptions>;
  #open = 0;

  constructor(options: ChecksOptions) {
    this.#options = { maxChecks: 32, ...options };
  }

  start(): void {
    const { link, address } = this.#options;
    link.subscribe(downSubject(address, 'check'), (message) => void this.#take(message));
  }

  async #take({ data, respond }: LinkMessage): Promise<void> {
    const { workloads, maxChecks, verifier, session } = this.#options;
    const answer = (reply: Reply) => respond(this.#fitting(reply));
    const { cluster } = workloads;
    const nonce = session();
    const opened = nonce && verifier.open('check', nonce, data);
    if (!opened)
      return answer({ error: { code: 14, message: 'the request is not of this session of the agent: try again' } });
    if (!cluster) return answer({ error: { code: 12, message: 'this node is not of a Kubernetes bay' } });
    if (this.#open >= maxChecks) {
      return answer({ error: { code: 8, message: `${maxChecks} checks are under way: try again later` } });
    }
    const assignment = read(opened.payload);
    if (!assignment || !isSupported(assignment)) {
      return answer({ error: { code: 3, message: 'the request could not be read' } });
    }
    this.#open += 1;
    try {
      answer(await this.#check(cluster, assignment));
    } finally {
      this.#open -= 1;
    }
  }

  async #check(cluster: Cluster, assignment: Assignment): Promise<Reply> {
    try {
      return await cluster.check(assignment);
    } catch (error) {
      if (error instanceof StreamError)
        return { error: { code: codes[error.kind], message: error.message.slice(0, 4096) } };
      this.#options.log.error(
        { uid: assignment.uid, error: (error as Error).message },
        'an object could not be checked',
      );
      return { error: { code: 13, message: 'the agent could not check it; its log says why' } };
    }
  }

  /** Two copies of a large object may not fit into a message. The verdict does. */
  #fitting(reply: Reply): Uint8Array {
    const whole = toBinary(CheckReplySchema, create(CheckReplySchema, reply));
    if (whole.byteLength <= this.#options.link.maxPayloadBytes) return whole;
    const { live: _live, merged: _merged, ...verdict } = reply;
    return toBinary(CheckReplySchema, create(CheckReplySchema, verdict));
  }
}

function read(data: Uint8Array): Assignment | undefined {
  try {
    return fromBinary(CheckRequestSchema, data).assignment;
  } catch {
    return undefined;
  }
}
