import type { Logger } from 'pino';
import { inboxPrefix, parseUpSubject } from '../../proto/subjects.ts';
import { messageOf } from './broker_error.ts';
import type { BrokerConnection, RawMessage } from './connection.ts';
import type { Bus, BusMessage, Subscription } from './port.ts';
import { type LaneLimits, SubjectLanes } from './subject_lanes.ts';

/** What may wait for one listener. Far more than a healthy one ever lets wait. */
const defaultLimits: LaneLimits = {
  messagesPerSubject: 4096,
  bytesPerSubject: 4 * 1024 * 1024,
  messages: 65_536,
  bytes: 64 * 1024 * 1024,
};

export interface NatsBusOptions {
  /** In the account of the agents. */
  readonly connection: BrokerConnection;
  readonly log: Logger;
  readonly clock: { now(): number };
  readonly limits?: LaneLimits;
}

/**
 * The bus on NATS. Messages of one subject are handled one after another (a listener's promise is waited for), those of different
 * subjects beside each other.
 */
export class NatsBus implements Bus {
  readonly #connection: BrokerConnection;
  readonly #options: NatsBusOptions;

  constructor(options: NatsBusOptions) {
    this.#options = options;
    this.#connection = options.connection;
  }

  get connected(): boolean {
    return this.#connection.connected;
  }

  get maxPayloadBytes(): number {
    return this.#connection.maxPayloadBytes;
  }

  publish(subject: string, data: Uint8Array): void {
    this.#connection.publish(subject, data);
  }

  request(subject: string, data: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
    return this.#connection.request(subject, data, timeoutMs);
  }

  subscribe(subject: string, listener: (message: BusMessage) => void | Promise<void>): Subscription {
    const { log, clock, limits = defaultLimits } = this.#options;
    const lanes = new SubjectLanes<BusMessage>({ listener, limits, log, clock });
    const end = this.#connection.subscribe(subject, (raw) => lanes.push(this.#message(raw)));
    return {
      unsubscribe() {
        end();
        lanes.close();
      },
    };
  }

  onConnected(listener: (connected: boolean) => void): () => void {
    return this.#connection.onConnected(listener);
  }

  #message({ subject, data, reply }: RawMessage): BusMessage {
    return {
      subject,
      data,
      respond: (answer) => {
        if (reply === undefined) return;
        if (!mayAnswer(subject, reply)) {
          this.#options.log.warn(
            { subject, reply },
            'an agent asks for an answer to a subject that is not its own: it gets none',
          );
          return;
        }
        try {
          this.#connection.publish(reply, answer);
        } catch (error) {
          // Who asked hears nothing, and asks again.
          this.#options.log.debug({ subject, reason: messageOf(error) }, 'an answer could not be sent');
        }
      },
    };
  }
}

/**
 * The broker lets an agent name any subject for the answer, another agent's too; and the control plane may publish anywhere. So an
 * answer to an agent goes to that agent's own inbox, or nowhere.
 */
function mayAnswer(subject: string, reply: string): boolean {
  const sender = parseUpSubject(subject);
  if (!sender) return !subject.startsWith('bk.');
  return reply.startsWith(`${inboxPrefix(sender.nodeUid)}.`);
}
