import { type Cloud, identityUrl, isLoopback } from '../../../proto/openstack/cloud.ts';
import { KeystoneError } from '../../../proto/openstack/errors.ts';
import type { IssuedToken, KeystoneClient } from '../../../proto/openstack/keystone_client.ts';

/** The most that is left of a token's life when it is renewed. */
const marginMs = 60_000;
/** How long a credential that was refused is not tried again: Keystone may lock out whoever tries too often. */
const refusedMs = 5_000;

/** With what, and where, tokens of others are asked about. */
export interface Service {
  readonly token: string;
  /** Of the identity service. */
  readonly url: string;
}

/** Options of {@link ServiceToken}. */
export interface ServiceTokenOptions {
  readonly client: Pick<KeystoneClient, 'issue'>;
  /** Read anew for each token, so that a password may be changed without a restart. */
  readonly readCloud: () => Promise<Cloud>;
  readonly clock: { now(): number };
}

/** The control plane's own token: asked for when it is needed, and again before its end, once for all that wait for it. */
export class ServiceToken {
  readonly #options: ServiceTokenOptions;
  #current: (Service & { readonly renewTimeMs: number }) | undefined;
  #pending: Promise<Service> | undefined;
  #refused: { readonly error: KeystoneError; readonly untilMs: number } | undefined;

  constructor(options: ServiceTokenOptions) {
    this.#options = options;
  }

  /** `not`: one that was refused. Rejects with KeystoneError and CloudError. */
  async get(not?: string): Promise<Service> {
    const current = this.#current;
    if (current && current.token !== not && this.#options.clock.now() < current.renewTimeMs) return current;
    this.#pending ??= this.#ask().finally(() => {
      this.#pending = undefined;
    });
    return this.#pending;
  }

  async #ask(): Promise<Service> {
    const leftMs = (this.#refused?.untilMs ?? 0) - this.#options.clock.now();
    if (this.#refused && leftMs > 0 && leftMs <= refusedMs) throw this.#refused.error;
    try {
      return await this.#issue();
    } catch (error) {
      const isRefused = error instanceof KeystoneError && error.failure !== 'unavailable';
      this.#refused = isRefused ? { error, untilMs: this.#options.clock.now() + refusedMs } : undefined;
      throw error;
    }
  }

  async #issue(): Promise<Service> {
    const { client, readCloud, clock } = this.#options;
    const cloud = await readCloud();
    const issued = await client.issue(cloud.credential, cloud.scope);
    const now = clock.now();
    const lifeMs = issued.info.expireTimeMs - now;
    this.#current = {
      token: issued.token,
      url: endpointOf(cloud, issued),
      renewTimeMs: issued.info.expireTimeMs - Math.min(marginMs, lifeMs / 4),
    };
    return this.#current;
  }
}

/** Where the identity service is: what the catalogue says of the region and interface that are wanted, else where the token came from. */
function endpointOf(cloud: Cloud, { info }: IssuedToken): string {
  const { region, interface: wanted = 'public', authUrl } = cloud;
  if (!region && cloud.interface === undefined) return authUrl;
  const identity = info.catalog.filter(({ type }) => type === 'identity');
  const found = identity.find((entry) => entry.interface === wanted && (!region || entry.region === region));
  if (!found) {
    const there = identity.map((entry) => `${entry.interface} in ${entry.region}`).join(', ') || 'none';
    throw new KeystoneError(
      'invalid',
      `Keystone's catalogue has no identity endpoint that is ${wanted}${region && ` in region ${region}`}; it has: ${there}`,
    );
  }
  const url = identityUrl(
    found.url,
    (expected) => new KeystoneError('invalid', `the identity endpoint of Keystone's catalogue: ${expected}`),
  );
  if ((authUrl.startsWith('https:') && !url.startsWith('https:')) || (isInClear(url) && !isInClear(authUrl))) {
    throw new KeystoneError(
      'invalid',
      `Keystone's catalogue leads from ${authUrl} to ${url}, where tokens would be in clear`,
    );
  }
  return url;
}

/** Whether what is sent there crosses a network as it is. */
const isInClear = (url: string): boolean => url.startsWith('http:') && !isLoopback(url);
