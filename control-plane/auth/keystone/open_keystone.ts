import { homedir } from 'node:os';
import type { Logger } from 'pino';
import { Counter, type Registry } from 'prom-client';
import { isLoopback } from '../../../proto/openstack/cloud.ts';
import { findCloud } from '../../../proto/openstack/clouds_file.ts';
import { CloudError, KeystoneError } from '../../../proto/openstack/errors.ts';
import { openKeystoneClient } from '../../../proto/openstack/keystone_client.ts';
import type { Authenticator } from '../port.ts';
import { KeystoneAuthenticator } from './authenticator.ts';
import type { KeystoneConfig } from './keystone_options.ts';
import { ServiceToken } from './service_token.ts';

/** Options of {@link openKeystone}. */
export interface OpenKeystoneOptions {
  readonly config: KeystoneConfig;
  readonly clock: { now(): number };
  readonly log: Logger;
  readonly registry: Registry;
  /** Default: of this process. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/** An authenticator by Keystone that is to be closed. */
export interface OpenKeystone extends AsyncDisposable {
  readonly authenticator: Authenticator;
}

/**
 * Opens it. Rejects, with one sentence, when what is said of the cloud cannot be, or Keystone says that it does not know us. A Keystone that is away is
 * waited for by those who call.
 */
export async function openKeystone(options: OpenKeystoneOptions): Promise<OpenKeystone> {
  const { config, clock, log, registry, env = process.env } = options;
  const findOwn = () =>
    findCloud({ env, home: homedir(), cwd: process.cwd(), cloud: config.cloud, file: config.cloudsFile });
  const cloud = await findOwn();
  if (!cloud.tls.verify) {
    throw new CloudError(
      `cloud ${cloud.name}: a Keystone that anybody can be is not believed: give cacert instead of verify: false`,
    );
  }
  if (cloud.authUrl.startsWith('http:') && !isLoopback(cloud.authUrl) && !config.allowPlaintext) {
    throw new CloudError(
      `cloud ${cloud.name}: tokens would cross the network in clear to ${cloud.authUrl}: use https://, or --keystone-allow-plaintext where it is trusted`,
    );
  }
  const client = await openKeystoneClient({ ...cloud, timeoutMs: config.timeoutMs });
  // Another password counts at once; another address, which nobody has looked at, with the next start.
  const readCloud = async () => ({ ...(await findOwn()), authUrl: cloud.authUrl });
  const service = new ServiceToken({ client, readCloud, clock });
  const lookups = new Counter({
    name: 'baykeeper_keystone_lookups_total',
    help: 'Questions to Keystone who is calling, by how they ended.',
    labelNames: ['outcome'],
    registers: [registry],
  });
  try {
    await service.get();
  } catch (error) {
    if (!(error instanceof KeystoneError && error.failure === 'unavailable')) {
      await client.close();
      throw error instanceof KeystoneError
        ? new CloudError(`cloud ${cloud.name}: ${error.message}`, { cause: error })
        : error;
    }
    log.warn({ err: error }, 'Keystone does not answer yet');
  }
  const authenticator = new KeystoneAuthenticator({
    client,
    service,
    roleNames: config.roleNames,
    cacheMs: config.cacheMs,
    clock,
    log,
    onLookup: (outcome) => lookups.inc({ outcome }),
  });
  return { authenticator, [Symbol.asyncDispose]: () => client.close() };
}
