import { readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import type { DescService } from '@bufbuild/protobuf';
import { type Client, createClient, type Interceptor, type Transport } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import type { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { freePort } from './free_port.ts';
import { ownProgram, Program } from './program.ts';
import { temporaryFolder } from './temporary_folder.ts';

/** A control plane as a process of its own, with a nats-server that it starts itself, on free ports that stay the same over restarts. */
export interface ControlPlane {
  /** `http://127.0.0.1:PORT`. */
  readonly url: string;
  readonly port: number;
  readonly natsPort: number;
  readonly dataDir: string;
  /** The admin's. */
  readonly token: string;
  readonly program: Program;
  /** Carries the admin's token. Connect, binary, HTTP/1.1. */
  readonly transport: Transport;
  client<S extends DescService>(service: S): Client<S>;
  /** A token with which `maxUses` nodes may join the bay (default 1). */
  joinToken(bay: string, maxUses?: number): Promise<string>;
  /** Makes a Docker bay of this name. */
  /** `engine`: default Docker. */
  createBay(name: string, engine?: ContainerEngine): Promise<void>;
  /** Ends it as a crash would: nats-server is left behind. */
  kill9(): Promise<void>;
  /** In order. */
  stop(): Promise<void>;
  /** Starts it again on the same data and ports, after `kill9` or `stop`. */
  start(): Promise<void>;
  /** Pid of the nats-server that it runs now, or undefined. */
  brokerPid(): Promise<number | undefined>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface ControlPlaneOptions {
  /** Default: a new one, which is removed at the end. */
  readonly dataDir?: string;
  readonly port?: number;
  readonly natsPort?: number;
  /** Further arguments: `--heartbeat`, `1s`. */
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string | undefined>>;
}

export async function startControlPlane(options: ControlPlaneOptions = {}): Promise<ControlPlane> {
  const folder = options.dataDir ? undefined : await temporaryFolder('control-plane');
  const dataDir = options.dataDir ?? folder?.path ?? '';
  const port = options.port ?? (await freePort());
  const natsPort = options.natsPort ?? (await freePort());
  const args = ['--data', dataDir, '--port', String(port), '--nats-port', String(natsPort), ...(options.args ?? [])];
  const program = new Program({
    command: ownProgram('control-plane/main.ts', ...args),
    readyLine: /^ready (\S+)/,
    env: { PATH: `${process.env.PATH ?? ''}:/usr/local/sbin:/usr/sbin`, ...options.env },
  });
  const dispose = async () => {
    await program.stop();
    const left = await findBroker(dataDir);
    if (left !== undefined) process.kill(left, 'SIGKILL');
    await folder?.[Symbol.asyncDispose]();
  };
  try {
    await program.start();
    const url = program.ready?.[1] ?? `http://127.0.0.1:${port}`;
    const token = (await readFile(path.join(dataDir, 'admin.token'), 'utf8')).trim();
    const bearer: Interceptor = (next) => (request) => {
      request.header.set('authorization', `Bearer ${token}`);
      return next(request);
    };
    const caFile = path.join(dataDir, 'tls', 'ca.pem');
    // As it is now: it may have been rolled over.
    const connect = () => {
      const nodeOptions = url.startsWith('https:') ? { ca: readFileSync(caFile, 'utf8') } : {};
      return createConnectTransport({ baseUrl: url, httpVersion: '1.1', interceptors: [bearer], nodeOptions });
    };
    return {
      url,
      port,
      natsPort,
      dataDir,
      token,
      program,
      get transport() {
        return connect();
      },
      client: (service) => createClient(service, connect()),
      async joinToken(bay, maxUses = 1) {
        return (await createClient(JoinTokenService, connect()).createJoinToken({ bay, maxUses })).token;
      },
      async createBay(name, containerEngine) {
        await createClient(BayService, connect()).createBay({ bay: { metadata: { name }, spec: { containerEngine } } });
      },
      kill9: () => program.kill(),
      stop: () => program.stop().then(() => undefined),
      start: () => program.start(),
      brokerPid: () => findBroker(dataDir),
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** The nats-server whose configuration lies in this folder. */
async function findBroker(dataDir: string): Promise<number | undefined> {
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const args = await readFile(`/proc/${entry}/cmdline`, 'utf8').then(
      (text) => text.split('\0'),
      () => [''],
    );
    if (path.basename(args[0] ?? '') !== 'nats-server') continue;
    if (args.some((arg) => arg.startsWith(`${dataDir}/`))) return Number(entry);
  }
  return undefined;
}
