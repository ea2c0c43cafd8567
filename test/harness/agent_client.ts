import { connect, jwtAuthenticator, type NatsConnection } from 'nats';
import { createUser } from '../../proto/nkeys.ts';
import { inboxPrefix, type NodeAddress } from '../../proto/subjects.ts';

/** A bare NATS client with an agent's credentials, that does what a broken or hostile agent could. */
export interface AgentKey {
  readonly publicKey: string;
  readonly seed: Uint8Array;
}

export function createAgentKey(): AgentKey {
  const pair = createUser();
  return { publicKey: pair.getPublicKey(), seed: pair.getSeed() };
}

export interface AgentClientOptions {
  readonly url: string;
  readonly userJwt: string;
  readonly seed: Uint8Array;
  readonly address: NodeAddress;
  /** Whether it comes back by itself. Default: no. */
  readonly reconnect?: boolean;
  /** What it claims to be in the CONNECT message. Default: its own key. */
  readonly claimedKey?: string;
}

/** Rejects when the broker does not let it in. */
export function connectAgentClient(options: AgentClientOptions): Promise<NatsConnection> {
  const authenticate = jwtAuthenticator(options.userJwt, options.seed);
  return connect({
    servers: options.url,
    name: `agent ${options.address.nodeUid}`,
    authenticator: (nonce?: string) => {
      const answer = authenticate(nonce);
      return answer && options.claimedKey !== undefined ? { ...answer, nkey: options.claimedKey } : answer;
    },
    inboxPrefix: inboxPrefix(options.address.nodeUid),
    reconnect: options.reconnect ?? false,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 50,
    ignoreAuthErrorAbort: true,
    timeout: 5000,
  });
}
