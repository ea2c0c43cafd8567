import path from 'node:path';
import { connect, jwtAuthenticator, type NatsConnection } from 'nats';
import { controlPlaneUserJwt } from '../../control-plane/broker/claims.ts';
import { loadOrCreateKeys } from '../../control-plane/broker/keys.ts';
import { createUser } from '../../proto/nkeys.ts';
import { inboxPrefix } from '../../proto/subjects.ts';
import type { ControlPlane } from './control_plane.ts';

/**
 * A client that may do on the bus what the control plane may: for messages that come twice, late, out of order, or as rubbish.
 * `inNameOf`: uid of the node whose replies it wants, as the control plane answers nobody else.
 */
export async function connectBusInsider(controlPlane: ControlPlane, inNameOf?: string): Promise<NatsConnection> {
  const { account } = await loadOrCreateKeys(path.join(controlPlane.dataDir, 'broker', 'keys'));
  const user = createUser();
  const { userJwt } = await controlPlaneUserJwt({
    publicKey: user.getPublicKey(),
    name: 'insider',
    signer: { key: account, accountPublicKey: account.getPublicKey() },
    ttlMs: 3_600_000,
    nowMs: Date.now(),
  });
  return connect({
    servers: `nats://127.0.0.1:${controlPlane.natsPort}`,
    authenticator: jwtAuthenticator(userJwt, user.getSeed()),
    ...(inNameOf === undefined ? {} : { inboxPrefix: inboxPrefix(inNameOf) }),
    maxReconnectAttempts: -1,
    reconnectTimeWait: 100,
  });
}
