import { once } from 'node:events';
import { mkdir, mkdtemp, rm, rmdir } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { until } from '../../test/harness/until.ts';
import { openAuthority, rotateAuthority } from '../tls/authority.ts';
import { ownSource } from '../tls/own_source.ts';
import { openServerCertificate } from '../tls/server_certificate.ts';
import { type Broker, startBroker } from './broker.ts';

const silent = pino({ level: 'silent' });
const hour = 3_600_000;

async function fixture(t: ExecutionContext, log = silent) {
  const dataDir = await mkdtemp(join(tmpdir(), 'baykeeper-tls-'));
  const clock = { offsetMs: 0, now: () => Date.now() + clock.offsetMs };
  const source = ownSource({ dataDir, names: ['127.0.0.2'], leafTtlMs: hour, log, clock });
  const certificate = await openServerCertificate({ source, log, clock, checkMs: hour });
  const started: Broker[] = [];
  t.teardown(async () => {
    for (const broker of started) await broker.close();
    certificate.close();
    await rm(dataDir, { recursive: true });
  });
  const start = async (trusted = () => certificate.current.trusted) => {
    const broker = await startBroker({
      dataDir,
      log,
      natsServer: { host: '127.0.0.2', certificate },
      tls: () => ({ trusted: trusted() }),
      advertiseUrls: (port) => [`tls://bays.example.com:${port}`],
      connectTimeoutMs: 2_000,
    });
    started.push(broker);
    return broker;
  };
  return { dataDir, clock, certificate, start };
}

/** Which certificate a client is shown that trusts only `ca`. Rejects as TLS does. */
async function shown(port: number, ca: string): Promise<string> {
  const socket = net.connect(port, '127.0.0.2');
  // The server speaks first, and then waits for the handshake.
  await once(socket, 'data');
  const secure = tls.connect({ socket, host: '127.0.0.2', ca });
  try {
    await once(secure, 'secureConnect');
    return secure.getPeerCertificate().fingerprint256;
  } finally {
    secure.destroy();
  }
}

test('nats-server has TLS, and is given its new certificates without a connection being lost', async (t) => {
  const { start, certificate, clock, dataDir } = await fixture(t);
  const broker = await start();
  const port = broker.server?.port ?? 0;
  t.is(broker.server?.url, `tls://127.0.0.2:${port}`);
  t.deepEqual(broker.access.urls, [`tls://bays.example.com:${port}`]);
  const pid = broker.server?.pid;
  let lost = 0;
  broker.bus.onConnected((connected) => {
    if (!connected) lost += 1;
  });
  const [ca = ''] = certificate.current.trusted;
  const first = await shown(port, ca);
  clock.offsetMs += hour * 0.7;
  await certificate.refresh();
  await until('it shows the renewed one', async () => (await shown(port, ca)) !== first);
  const second = await shown(port, ca);

  await rotateAuthority(dataDir, hour, clock.now());
  await certificate.refresh();
  await until('it shows one of the new CA', async () => (await shown(port, ca)) !== second);
  const [newest = ''] = certificate.current.trusted;
  t.not(newest, ca);
  t.is(await shown(port, newest), await shown(port, ca), 'the same to those who know the old CA alone');
  const stranger = await openAuthority(await mkdtemp(join(dataDir, 'x')), Date.now());
  const refused = await t.throwsAsync<NodeJS.ErrnoException>(shown(port, stranger.current.certificate));
  t.regex(refused?.code ?? '', /^UNABLE_TO_(GET_ISSUER|VERIFY)/);

  t.is(broker.server?.pid, pid);
  t.true(broker.bus.connected);
  t.is(lost, 0, 'the connections from before are still there');
});

test('a certificate that could not be written is given to nats-server as soon as it can be', async (t) => {
  const errors: string[] = [];
  const log = pino({ level: 'error' }, { write: (line) => void errors.push(line) });
  const { start, certificate, clock, dataDir } = await fixture(t, log);
  const broker = await start();
  const port = broker.server?.port ?? 0;
  const [ca = ''] = certificate.current.trusted;
  const first = await shown(port, ca);
  const file = join(dataDir, 'broker', 'server.pem');
  await rm(file);
  // Nothing can be put in the place of a folder.
  await mkdir(file);
  clock.offsetMs += hour * 0.7;
  await certificate.refresh();
  await until('it was tried', () => errors.some((line) => line.includes('could not be given its new certificate')));
  await rmdir(file);
  await until('it shows the renewed one', async () => (await shown(port, ca)) !== first);
  t.pass();
});

test('a broker that our own CA does not vouch for is not spoken to', async (t) => {
  const { start, dataDir } = await fixture(t);
  const stranger = await openAuthority(await mkdtemp(join(dataDir, 'x')), Date.now());
  await t.throwsAsync(
    start(() => [stranger.current.certificate]),
    { message: /is up on tls:.*but the control plane cannot connect to it: unable to/ },
  );
});
