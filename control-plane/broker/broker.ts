import { isAbsolute, join } from 'node:path';
import type { Logger } from 'pino';
import { removeLeftovers } from '../private_file.ts';
import { NatsAccess } from './access.ts';
import { BrokerError } from './broker_error.ts';
import { NatsBus } from './bus.ts';
import { accountJwt, operatorJwt, revocationsOf, systemAccountJwt } from './claims.ts';
import { BrokerConnection, type BrokerTls } from './connection.ts';
import { type BrokerIdentity, type ExternalBrokerOptions, externalIdentity, ownCredentials } from './external.ts';
import { type BrokerKeys, loadOrCreateKeys } from './keys.ts';
import { type NatsServer, type NatsServerOptions, superviseNatsServer } from './nats_server.ts';
import type { Access, Bus } from './port.ts';

export interface BrokerOptions {
  /** An absolute path. The broker's files are in `dataDir/broker`. */
  readonly dataDir: string;
  readonly log: Logger;
  /** The nats-server that is started. Not looked at when `external` is given. */
  readonly natsServer?: Omit<NatsServerOptions, 'dataDir' | 'claims' | 'log'>;
  /** Use this broker instead of starting one. */
  readonly external?: ExternalBrokerOptions;
  /** Where agents are to look for the broker, given the port of our own. Default: where the control plane finds it. */
  readonly advertiseUrls?: (port: number) => readonly string[];
  /** Who may vouch for the broker, where there is TLS. Asked at each connect. */
  readonly tls?: () => BrokerTls;
  /** How long an agent's credentials live. Default 24 h. */
  readonly credentialTtlMs?: number;
  /**
   * The keys that are revoked; those revoked longer than `credentialTtlMs` ago may be left out. Asked at the start, and each time the
   * broker comes back. Default: none.
   */
  readonly revokedKeys?: () => Promise<readonly string[]>;
  readonly clock?: { now(): number };
  /** How long the start waits for the broker to let the control plane in. Default 10 s. */
  readonly connectTimeoutMs?: number;
}

export interface Broker {
  readonly bus: Bus;
  readonly access: Access;
  /** The nats-server that is watched over. Undefined with an external broker. */
  readonly server: NatsServer | undefined;
  /** Ends the connections, and the nats-server. Safe to repeat. */
  close(): Promise<void>;
}

/**
 * Starts the broker, or connects to the one that is given. With a nats-server of its own it resolves when that is up and connected; an
 * external one may be away, and is tried for ever. Rejects with BrokerError or FileError.
 */
export async function startBroker(options: BrokerOptions): Promise<Broker> {
  if (!isAbsolute(options.dataDir))
    throw new BrokerError(`the data folder must be an absolute path, not ${options.dataDir}`);
  return options.external ? connectExternal(options, options.external) : startOwn(options);
}

/** Everything that is to be ended, the last first. */
class Closer {
  readonly #steps: (() => Promise<void>)[] = [];
  #closing: Promise<void> | undefined;

  add(step: () => Promise<void>): void {
    this.#steps.unshift(step);
  }

  close(): Promise<void> {
    this.#closing ??= this.#run();
    return this.#closing;
  }

  async #run(): Promise<void> {
    const failures: unknown[] = [];
    for (const step of this.#steps) await step().catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw failures[0];
  }
}

async function startOwn(options: BrokerOptions): Promise<Broker> {
  const { dataDir, natsServer = {}, log, clock = Date, revokedKeys } = options;
  await removeLeftovers(join(dataDir, 'broker'));
  const keys = await loadOrCreateKeys(join(dataDir, 'broker', 'keys'));
  // What is revoked goes into the configuration that the server starts with: there is no moment in which it does not know.
  const revocations = revocationsOf(revokedKeys ? await revokedKeys() : []);
  const claims = {
    operatorPublicKey: keys.operator.getPublicKey(),
    operatorJwt: await operatorJwt(keys.operator, keys.systemAccount.getPublicKey()),
    systemAccount: {
      publicKey: keys.systemAccount.getPublicKey(),
      jwt: await systemAccountJwt(keys.systemAccount, keys.operator),
    },
    account: {
      publicKey: keys.account.getPublicKey(),
      jwt: await accountJwt(keys.account, keys.operator, revocations),
    },
  };
  const server = await superviseNatsServer({ ...natsServer, dataDir, claims, log });
  const closer = new Closer();
  closer.add(() => server.close());
  return connectTo(options, ownIdentity(keys, server, clock), server, [server.url], closer);
}

async function connectExternal(options: BrokerOptions, external: ExternalBrokerOptions): Promise<Broker> {
  const identity = await externalIdentity(external, options.clock ?? Date);
  return connectTo(options, identity, undefined, external.urls, new Closer());
}

function ownIdentity(keys: BrokerKeys, server: NatsServer, clock: { now(): number }): BrokerIdentity {
  const signer = { key: keys.account, accountPublicKey: keys.account.getPublicKey() };
  const systemSigner = { key: keys.systemAccount, accountPublicKey: keys.systemAccount.getPublicKey() };
  return {
    authority: {
      signer,
      ownKeys: [keys.controlPlane.getPublicKey(), keys.systemUser.getPublicKey()],
      accountJwt: (revocations) => accountJwt(keys.account, keys.operator, revocations),
      keepAccountJwt: (jwt) => server.setAccountJwt(jwt),
    },
    busCredentials: () => ownCredentials(keys.controlPlane, signer, clock),
    systemCredentials: () => ownCredentials(keys.systemUser, systemSigner, clock),
  };
}

async function connectTo(
  options: BrokerOptions,
  identity: BrokerIdentity,
  server: NatsServer | undefined,
  urls: readonly string[],
  closer: Closer,
): Promise<Broker> {
  const { log, clock = Date, credentialTtlMs = 24 * 3600 * 1000 } = options;
  const { revokedKeys = () => Promise.resolve([]), connectTimeoutMs = 10_000 } = options;
  const advertised = options.advertiseUrls?.(server?.port ?? 4222) ?? [];
  try {
    // A server of our own is back within moments, and it is only us who hammer at it.
    const shared = { urls, tls: options.tls, log, clock, backoff: { baseMs: 50, maxMs: server ? 1000 : 5000 } };
    const system = new BrokerConnection({
      ...shared,
      name: 'control-plane-system',
      credentials: identity.systemCredentials,
    });
    const { authority } = identity;
    const agentUrls = advertised.length > 0 ? advertised : urls;
    const access = new NatsAccess({ urls: agentUrls, authority, system, credentialTtlMs, revokedKeys, log, clock });
    closer.add(() => access.close());
    // Ended before it, so that it waits for no answer any more.
    closer.add(() => system.close());
    await access.start();
    const connection = new BrokerConnection({ ...shared, name: 'control-plane', credentials: identity.busCredentials });
    closer.add(() => connection.close());
    const up = await Promise.all([system, connection].map((one) => one.waitUntilConnected(connectTimeoutMs)));
    if (up.includes(false)) {
      if (server) {
        const reason = system.problem || connection.problem || 'it does not answer in time';
        throw new BrokerError(
          `nats-server is up on ${server.url}, but the control plane cannot connect to it: ${reason}`,
        );
      }
      log.warn({ urls }, 'the broker cannot be reached: it is tried until it can');
    }
    // One that was taken over may know of no revocation yet.
    await access.waitUntilTold(connectTimeoutMs);
    return { bus: new NatsBus({ connection, log, clock }), access, server, close: () => closer.close() };
  } catch (error) {
    await closer.close();
    throw error;
  }
}
