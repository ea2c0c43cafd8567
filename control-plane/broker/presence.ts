import type { Logger } from 'pino';
import { messageOf } from './broker_error.ts';
import { subjectOf } from './claims.ts';
import type { BrokerConnection } from './connection.ts';
import type { ConnectionEvent } from './port.ts';
import { fieldsOf, parseSystemMessage } from './system_message.ts';

export interface PresenceOptions {
  /** In the system account. */
  readonly system: BrokerConnection;
  readonly accountPublicKey: string;
  /** Of these nothing is told. */
  readonly ownKeys: ReadonlySet<string>;
  readonly log: Logger;
}

/** How many connections one answer of the broker holds. */
const pageSize = 256;
const answerTimeoutMs = 5000;

/**
 * Who is connected, by the broker's word. It speaks of a connection when it comes and when it goes; those that came while nobody
 * listened (the broker was away, or the control plane) are asked for. So the same connection may be told of twice.
 */
export class Presence {
  readonly #options: PresenceOptions;
  readonly #listeners = new Set<(event: ConnectionEvent) => void>();
  /** Connections that ended while a list was on its way in which they may still be. */
  #ended: Set<string> | undefined;

  constructor(options: PresenceOptions) {
    this.#options = options;
    const { system, accountPublicKey, log } = options;
    for (const connected of [true, false]) {
      system.subscribe(`$SYS.ACCOUNT.${accountPublicKey}.${connected ? 'CONNECT' : 'DISCONNECT'}`, ({ data }) => {
        const { timestamp, server, client } = parseSystemMessage(data);
        const event = connectionEvent(
          fieldsOf(server).id,
          fieldsOf(client).id,
          fieldsOf(client).jwt,
          timestamp,
          connected,
        );
        if (event) this.#tell(event);
        else log.warn({ connected }, 'the broker reports a connection in a way that is not understood');
      });
    }
  }

  onConnection(listener: (event: ConnectionEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** Tells of all that are connected now. Of several servers only the first to answer is heard. Rejects with UnavailableError. */
  async announce(): Promise<void> {
    const { system, accountPublicKey } = this.#options;
    this.#ended = new Set();
    try {
      for (let offset = 0, total = 1; offset < total; offset += pageSize) {
        const question = new TextEncoder().encode(JSON.stringify({ auth: true, limit: pageSize, offset, sort: 'cid' }));
        const answer = await system.request(`$SYS.REQ.ACCOUNT.${accountPublicKey}.CONNZ`, question, answerTimeoutMs);
        const data = fieldsOf(parseSystemMessage(answer).data);
        total = typeof data.total === 'number' ? data.total : 0;
        for (const connection of Array.isArray(data.connections) ? data.connections : []) {
          const { cid, jwt, start } = fieldsOf(connection);
          const event = connectionEvent(data.server_id, cid, jwt, start, true);
          if (event && !this.#ended.has(event.connectionId)) this.#tell(event);
        }
      }
    } finally {
      this.#ended = undefined;
    }
  }

  #tell(event: ConnectionEvent): void {
    if (!event.connected) this.#ended?.add(event.connectionId);
    if (this.#options.ownKeys.has(event.publicKey)) return;
    for (const listener of this.#listeners) {
      try {
        listener(event);
      } catch (error) {
        this.#options.log.error({ err: error, reason: messageOf(error) }, 'a listener threw');
      }
    }
  }
}

/**
 * The key is taken from the JWT, which the broker has checked. The field with the user's name holds what the client says of itself, and
 * can be any other agent's key.
 */
function connectionEvent(
  serverId: unknown,
  clientId: unknown,
  jwt: unknown,
  time: unknown,
  connected: boolean,
): ConnectionEvent | undefined {
  const publicKey = typeof jwt === 'string' ? subjectOf(jwt) : undefined;
  const timeMs = typeof time === 'string' ? Date.parse(time) : Number.NaN;
  if (!publicKey || typeof serverId !== 'string' || typeof clientId !== 'number' || Number.isNaN(timeMs))
    return undefined;
  return { publicKey, connected, connectionId: `${serverId}.${clientId}`, timeMs };
}
