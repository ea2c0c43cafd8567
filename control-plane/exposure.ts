import { readFile } from 'node:fs/promises';
import process from 'node:process';
import type { Logger } from 'pino';
import { trustDigest } from '../proto/trust_digest.ts';
import { type Trust, trustBundle } from './api/trust.ts';
import type { BrokerOptions } from './broker/broker.ts';
import type { Config } from './config.ts';
import { isLoopback } from './domain/ip.ts';
import type { AuthorityChange } from './tls/authority_record.ts';
import { parseCertificates } from './tls/given_source.ts';
import { openTls } from './tls/open_tls.ts';
import type { ServerCertificate } from './tls/port.ts';
import { type Endpoint, urlOf } from './tls/tls_options.ts';

/** How this control plane shows itself to others: under which names, with which certificates. */
export interface Exposure {
  /** Undefined: no TLS. */
  readonly certificate: ServerCertificate | undefined;
  readonly brokerOptions: Pick<BrokerOptions, 'natsServer' | 'external' | 'advertiseUrls' | 'tls'>;
  /** As of now. */
  readonly trust: Trust;
  /** Of what agents are told of it. Empty while it is not known where the API will listen. */
  trustDigest(): Uint8Array;
  /** To be called when the API listens: now it is certain on which port. */
  listening(port: number): void;
  close(): void;
}

/** Opens the certificates that the configuration asks for. SIGHUP has them looked at anew. Rejects with one sentence. */
export async function openExposure(
  { dataDir, host, port: wantedPort, broker, exposure }: Config,
  around: {
    readonly log: Logger;
    readonly clock: { now(): number };
    /** Records that our own CA is another. */
    readonly onAuthority?: (change: AuthorityChange) => Promise<void>;
  },
): Promise<Exposure> {
  const { tls, advertise, natsAdvertise, natsHost, natsCaFile } = exposure;
  const brokerCertificates =
    natsCaFile === undefined ? [] : parseCertificates(await readFile(natsCaFile, 'utf8'), natsCaFile).map(String);
  const certificate = await openTls(tls, { dataDir, ...around });
  const reload = (): void => void certificate?.refresh();
  if (certificate) process.on('SIGHUP', reload);
  let port = wantedPort;
  const endpoints = advertise.length > 0 ? advertise : [{ host, port: undefined }];
  const trusted = (): readonly string[] => certificate?.current.trusted ?? [];
  const brokerScheme = broker.kind === 'given' && broker.urls[0]?.startsWith('tls:') ? 'tls' : 'nats';
  /** Nobody is told to speak in the clear beyond this machine: where we have no TLS there, somebody before us has. */
  const told = (secure: string, clear: string, one: Endpoint, listenPort: number): string =>
    urlOf(certificate || !isLoopback(one.host) ? secure : clear, one, listenPort);
  const trust = (): Trust => ({
    certificates: trusted(),
    brokerCertificates: broker.kind === 'own' ? trusted() : brokerCertificates,
    serverUrls: endpoints.map((one) => told('https', 'http', one, port)),
  });
  return {
    certificate,
    brokerOptions: {
      ...(broker.kind === 'own'
        ? {
            natsServer: { binary: broker.binary, host: natsHost, port: broker.port, certificate },
            // One that was given is not for the address by which we go there ourselves.
            tls: () => ({ trusted: trusted(), ...(tls.kind === 'given' ? { name: tls.names[0] } : {}) }),
          }
        : { external: broker, tls: () => ({ trusted: brokerCertificates }) }),
      advertiseUrls: (port) => natsAdvertise.map((one) => told('tls', brokerScheme, one, port)),
    },
    get trust() {
      return trust();
    },
    trustDigest() {
      return port === 0 ? new Uint8Array() : trustDigest(trustBundle(trust()));
    },
    listening(actualPort) {
      port = actualPort;
    },
    close() {
      process.off('SIGHUP', reload);
      certificate?.close();
    },
  };
}
