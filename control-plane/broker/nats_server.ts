import { rm, stat } from 'node:fs/promises';
import { connect as connectSocket } from 'node:net';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { isWildcard } from '../domain/ip.ts';
import { makePrivateFolder, readSmallFile, writePrivateFile } from '../private_file.ts';
import type { CertificateMaterial, ServerCertificate } from '../tls/port.ts';
import { type Backoff, fullJitterMs, pause } from './backoff.ts';
import { BrokerError, messageOf, systemErrorCode } from './broker_error.ts';
import { digestOf, fixedDigest, type NatsConfig, natsConfigText, operatorJwtOf, portOf } from './nats_config.ts';
import { followNatsLog, type NatsLog } from './nats_log.ts';
import { checkPortIsFree, freePort, PortTakenError, parsePort } from './nats_port.ts';
import {
  adoptNatsServer,
  endNatsServer,
  findBinary,
  findNatsServers,
  type NatsProcess,
  reloadNatsServer,
  runsBinary,
  startNatsServer,
} from './nats_process.ts';

export interface NatsServerOptions {
  /** Everything of the broker is in `dataDir/broker`. An absolute path. */
  readonly dataDir: string;
  /** The JWTs that it goes by. */
  readonly claims: Pick<NatsConfig, 'operatorJwt' | 'operatorPublicKey' | 'systemAccount' | 'account'>;
  readonly log: Logger;
  /** Default: `nats-server`, on PATH. */
  readonly binary?: string;
  /** Default 127.0.0.1. */
  readonly host?: string;
  /** 0 (the default): a free one, drawn once and kept in the data folder, so that agents find the broker again. */
  readonly port?: number;
  /** Default 1 MiB. */
  readonly maxPayloadBytes?: number;
  /** Default 16384. */
  readonly maxConnections?: number;
  /** Default: no monitoring. */
  readonly monitorPort?: number;
  /** Undefined: no TLS. Followed as it changes. */
  readonly certificate?: ServerCertificate;
  /** Between restarts. Default 100 ms to 10 s. */
  readonly backoff?: Backoff;
  /** How long it may take to be ready. Default 15 s. */
  readonly readyTimeoutMs?: number;
  /** Between SIGTERM and SIGKILL. Default 5 s. */
  readonly stopTimeoutMs?: number;
}

/** A nats-server that is kept running. */
export interface NatsServer {
  /** Where the control plane finds it. */
  readonly url: string;
  readonly host: string;
  readonly port: number;
  /** Undefined while it is down. */
  readonly pid: number | undefined;
  /** It was running already, left behind by a control plane that was killed: its connections have survived. */
  readonly adopted: boolean;
  /** Puts the account's JWT where the server reads it when it starts. A running server has to be told besides. */
  setAccountJwt(jwt: string): Promise<void>;
  /** Ends it. */
  close(): Promise<void>;
}

/** A server that ran for so long has begun well: the next restart does not wait for what was before. */
const steadyMs = 10_000;

/**
 * Starts nats-server and keeps it running until `close`, or takes over the one that an earlier control plane on this data folder has left
 * behind when it runs with what we would start it with (else it is replaced). Resolves when it is ready. Rejects with BrokerError.
 */
export async function superviseNatsServer(options: NatsServerOptions): Promise<NatsServer> {
  const server = new Supervisor(options, await findBinary(options.binary ?? 'nats-server'));
  try {
    await server.start();
  } catch (error) {
    await server.close();
    throw error;
  }
  return server;
}

class Supervisor implements NatsServer {
  readonly #options: NatsServerOptions;
  readonly #binary: string;
  readonly #log: Logger;
  readonly #folder: string;
  readonly #configPath: string;
  readonly #resolverFolder: string;
  readonly #logPath: string;
  readonly #certificatePath: string;
  readonly #backoff: Backoff;
  readonly #closing = new AbortController();
  readonly host: string;
  #port = 0;
  /** No agent knows it yet. */
  #portIsNew = false;
  #accountJwt: string;
  /** A running server reads no configuration with another one, though it be of the same key. */
  #operatorJwt: string;
  #adopted = false;
  #process: NatsProcess | undefined;
  #natsLog: NatsLog | undefined;
  #watch: Promise<void> = Promise.resolve();
  #configWrites: Promise<void> = Promise.resolve();
  #endFollowing: (() => void) | undefined;

  constructor(options: NatsServerOptions, binary: string) {
    this.#options = options;
    this.#binary = binary;
    this.#log = options.log;
    this.host = options.host ?? '127.0.0.1';
    this.#folder = join(options.dataDir, 'broker');
    this.#configPath = join(this.#folder, 'nats-server.conf');
    this.#resolverFolder = join(this.#folder, 'accounts');
    this.#logPath = join(this.#folder, 'nats-server.log');
    this.#certificatePath = join(this.#folder, 'server.pem');
    this.#backoff = options.backoff ?? { baseMs: 100, maxMs: 10_000 };
    this.#accountJwt = options.claims.account.jwt;
    this.#operatorJwt = options.claims.operatorJwt;
  }

  get port(): number {
    return this.#port;
  }

  get url(): string {
    const host = this.#localHost;
    return `${this.#options.certificate ? 'tls' : 'nats'}://${host.includes(':') ? `[${host}]` : host}:${this.#port}`;
  }

  get #localHost(): string {
    if (!isWildcard(this.host)) return this.host;
    return this.host.includes(':') ? '::1' : '127.0.0.1';
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  get adopted(): boolean {
    return this.#adopted;
  }

  async start(): Promise<void> {
    await makePrivateFolder(this.#folder);
    const { certificate } = this.#options;
    if (certificate) {
      await this.#writeCertificate(certificate.current);
      this.#endFollowing = certificate.onChange((material) => void this.#replaceCertificate(certificate, material));
    }
    const oldConfig = await this.#readOldConfig();
    await this.#choosePort(oldConfig);
    const running = await this.#takeOver(oldConfig);
    if (running) {
      this.#adopted = true;
      this.#process = running;
      this.#operatorJwt = operatorJwtOf(oldConfig ?? '') ?? this.#operatorJwt;
      await this.#writeConfig();
      if (certificate) await reloadNatsServer(running, this.#configPath);
      this.#natsLog = followNatsLog(this.#logPath, await this.#logSize(), this.#log);
      this.#log.info({ natsPid: running.pid, url: this.url }, 'took over the nats-server that was left running');
    } else {
      this.#natsLog = followNatsLog(this.#logPath, await this.#logSize(), this.#log);
      this.#process = await this.#launchFirst();
    }
    this.#watch = this.#keepRunning(this.#process);
  }

  setAccountJwt(jwt: string): Promise<void> {
    this.#accountJwt = jwt;
    return this.#writeConfig();
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#endFollowing?.();
    await this.#watch;
    const running = this.#process;
    this.#process = undefined;
    if (running) await endNatsServer(running, this.#configPath, this.#options.stopTimeoutMs ?? 5000);
    await this.#natsLog?.close();
  }

  /** Tries until it is done, or there is a newer one: the one in use ends before the next is made. */
  async #replaceCertificate(certificate: ServerCertificate, material: CertificateMaterial): Promise<void> {
    const { signal } = this.#closing;
    for (let failures = 0; certificate.current === material && !signal.aborted; failures += 1) {
      try {
        await this.#writeCertificate(material);
        if (this.#process) await reloadNatsServer(this.#process, this.#configPath);
        return;
      } catch (error) {
        const reason = messageOf(error);
        this.#log.error({ reason, failures }, 'nats-server could not be given its new certificate: it is tried again');
        await pause(fullJitterMs(this.#backoff, failures), signal);
      }
    }
  }

  #writeCertificate({ chain, key }: CertificateMaterial): Promise<void> {
    return writePrivateFile(this.#certificatePath, `${chain}${key}`);
  }

  /** A port that was drawn just now may be somebody else's a moment later: then another is drawn. */
  async #launchFirst(): Promise<NatsProcess> {
    for (let draws = 1; ; draws += 1) {
      try {
        await checkPortIsFree(this.host, this.#port);
        return await this.#launch();
      } catch (error) {
        const taken = error instanceof PortTakenError || /address already in use/.test(messageOf(error));
        if (!taken) throw error;
        if (!this.#portIsNew || draws >= 10) throw new PortTakenError(this.host, this.#port, { cause: error });
        await this.#setPort(await freePort(this.host));
      }
    }
  }

  /** Starts it and waits until it is ready. */
  async #launch(): Promise<NatsProcess> {
    await this.#writeConfig();
    // All that it could find there is in the configuration, newer.
    await rm(this.#resolverFolder, { recursive: true, force: true });
    await makePrivateFolder(this.#resolverFolder);
    const started = await startNatsServer(this.#binary, this.#configPath, this.#logPath);
    let ended: string | undefined;
    void started.exited.then((how) => {
      ended = how;
    });
    const deadline = Date.now() + (this.#options.readyTimeoutMs ?? 15_000);
    while (!(await this.#answers())) {
      if (ended !== undefined) throw new BrokerError(`nats-server did not start (${ended})${await this.#complaint()}`);
      if (Date.now() > deadline || this.#closing.signal.aborted) {
        await endNatsServer(started, this.#configPath, 0);
        throw new BrokerError(`nats-server did not answer on ${this.url} in time${await this.#complaint()}`);
      }
      await pause(20);
    }
    this.#log.info({ natsPid: started.pid, url: this.url }, 'nats-server is ready');
    return started;
  }

  async #keepRunning(first: NatsProcess): Promise<void> {
    const { signal } = this.#closing;
    const closing = new Promise<undefined>((resolve) => {
      signal.addEventListener('abort', () => resolve(undefined), { once: true });
    });
    let running: NatsProcess | undefined = first;
    let failures = 0;
    while (!signal.aborted) {
      if (running) {
        const since = Date.now();
        const how: string | undefined = await Promise.race([running.exited, closing]);
        if (how === undefined) return;
        this.#process = undefined;
        failures = Date.now() - since > steadyMs ? 0 : failures + 1;
        await this.#natsLog?.drain();
        this.#log.error({ natsPid: running.pid, how, failures }, 'nats-server died: it is started again');
      }
      await pause(fullJitterMs(this.#backoff, failures), signal);
      if (signal.aborted) return;
      try {
        running = await this.#launch();
        this.#process = running;
        this.#adopted = false;
      } catch (error) {
        running = undefined;
        failures += 1;
        this.#log.error({ reason: messageOf(error), failures }, 'nats-server could not be started: it is tried again');
      }
    }
  }

  /** A server left behind, when it runs as we would have it; otherwise it is ended. */
  async #takeOver(oldConfig: string | undefined): Promise<NatsProcess | undefined> {
    const pids = await findNatsServers(this.#configPath);
    let kept: NatsProcess | undefined;
    for (const pid of pids) {
      const left = adoptNatsServer(pid, this.#configPath);
      const same = oldConfig !== undefined && digestOf(oldConfig) === fixedDigest(this.#config());
      if (!kept && same && (await runsBinary(pid, this.#binary)) && (await this.#answers())) {
        kept = left;
        continue;
      }
      this.#log.warn({ natsPid: pid }, 'a nats-server was left running that does not fit: it is replaced');
      await endNatsServer(left, this.#configPath, this.#options.stopTimeoutMs ?? 5000);
    }
    return kept;
  }

  #config(): NatsConfig {
    const { claims, maxPayloadBytes = 1024 * 1024, maxConnections = 16_384, monitorPort } = this.#options;
    return {
      ...claims,
      operatorJwt: this.#operatorJwt,
      account: { publicKey: claims.account.publicKey, jwt: this.#accountJwt },
      serverName: this.#serverName,
      host: this.host,
      port: this.#port,
      resolverFolder: this.#resolverFolder,
      maxPayloadBytes,
      maxConnections,
      ...(monitorPort === undefined ? {} : { monitorPort }),
      ...(this.#options.certificate ? { certificateFile: this.#certificatePath } : {}),
    };
  }

  get #serverName(): string {
    return `baykeeper-${this.#options.claims.operatorPublicKey.slice(0, 12)}`;
  }

  /** One after another: the last that was asked for is the last written. */
  #writeConfig(): Promise<void> {
    const write = this.#configWrites.then(() => writePrivateFile(this.#configPath, natsConfigText(this.#config())));
    this.#configWrites = write.catch(() => undefined);
    return write;
  }

  /** What is broken in it does not matter, it is only looked at for the port and the digest. */
  async #readOldConfig(): Promise<string | undefined> {
    return readSmallFile(this.#configPath, 8 * 1024 * 1024);
  }

  async #choosePort(oldConfig: string | undefined): Promise<void> {
    const { port = 0 } = this.#options;
    const path = join(this.#folder, 'port');
    const remembered = await readSmallFile(path, 4096);
    if (port !== 0) {
      this.#port = port;
    } else {
      const known = remembered === undefined ? undefined : parsePort(remembered);
      if (remembered !== undefined && known === undefined) {
        this.#log.warn({ path }, 'the file with the port of the broker is broken: it is written anew');
      }
      const before = known ?? (oldConfig === undefined ? undefined : portOf(oldConfig));
      this.#portIsNew = before === undefined;
      this.#port = before ?? (await freePort(this.host));
    }
    await this.#setPort(this.#port);
  }

  async #setPort(port: number): Promise<void> {
    this.#port = port;
    await writePrivateFile(join(this.#folder, 'port'), `${port}\n`);
  }

  /** Whether our server, and not another's, answers. */
  #answers(): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = connectSocket({ host: this.#localHost, port: this.#port });
      let text = '';
      const end = (answer: boolean) => {
        socket.destroy();
        resolve(answer);
      };
      socket.setTimeout(2000, () => end(false));
      socket.on('error', () => end(false));
      socket.on('close', () => end(false));
      socket.on('data', (data) => {
        text += data.toString('latin1');
        if (text.includes('\r\n') || text.length > 16_384) end(text.includes(`"server_name":"${this.#serverName}"`));
      });
    });
  }

  async #complaint(): Promise<string> {
    await this.#natsLog?.drain();
    const complaint = this.#natsLog?.lastComplaint ?? '';
    return complaint === '' ? `: see ${this.#logPath}` : `: ${complaint}`;
  }

  async #logSize(): Promise<number> {
    try {
      return (await stat(this.#logPath)).size;
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return 0;
      throw new BrokerError(`cannot read ${this.#logPath}: ${messageOf(error)}`, { cause: error });
    }
  }
}
