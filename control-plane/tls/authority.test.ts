import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, createServer } from 'node:tls';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { certificatesIn, fingerprintOf } from '../../proto/fingerprint.ts';
import { authorityFile, openAuthority, readAuthority, rotateAuthority, trustedBy } from './authority.ts';
import { ownSource } from './own_source.ts';
import type { CertificateMaterial } from './port.ts';
import { secureContextOf } from './secure_context.ts';
import { TlsError } from './tls_error.ts';

const hour = 3_600_000;

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'baykeeper-tls-'));
  t.teardown(() => rm(path, { recursive: true }));
  return path;
}

function source(dataDir: string, clock: { now(): number }) {
  const read = ownSource({ dataDir, names: ['localhost', '127.0.0.1'], leafTtlMs: hour, log, clock });
  return (before?: CertificateMaterial) => read.read(before, true);
}
const log = pino({ level: 'silent' });

/** How a client that trusts only `ca` finds a server with this certificate: `TLSv1.3`, or the code of the error. */
async function visit(material: CertificateMaterial, ca: string, host = '127.0.0.1'): Promise<string> {
  const server = createServer(secureContextOf(material), (socket) => socket.end());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  const outcome = await new Promise<string>((resolve) => {
    const socket = connect({ host: '127.0.0.1', port, ca, ...named(host) }, () => resolve(socket.getProtocol() ?? ''));
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    socket.on('data', () => undefined);
  });
  server.close();
  return outcome;
}
const named = (host: string) => (host === '127.0.0.1' ? {} : { servername: host });

test('an authority is made once, and is for its owner alone', async (t) => {
  const dir = await folder(t);
  t.is(await readAuthority(dir), undefined);
  const made = await openAuthority(dir, Date.now());
  t.deepEqual(await openAuthority(dir, Date.now()), made);
  t.is((await stat(authorityFile(dir))).mode & 0o777, 0o600);
  t.is((await stat(join(dir, 'tls'))).mode & 0o777, 0o700);
});

test('a broken file, or one that others can read, is told by its name, without the key', async (t) => {
  const dir = await folder(t);
  const { current } = await openAuthority(dir, Date.now());
  const other = await openAuthority(await folder(t), Date.now());
  await writeFile(
    authorityFile(dir),
    JSON.stringify({ current: { ...current, key: other.current.key }, previous: [] }),
  );
  const error = await t.throwsAsync(openAuthority(dir, Date.now()), { message: /authority\.json does not hold/ });
  t.false(`${error?.message}${error?.stack}`.includes('PRIVATE'));
  await writeFile(authorityFile(dir), 'rubbish');
  await t.throwsAsync(openAuthority(dir, Date.now()), { message: /authority\.json does not hold/ });
  await rm(authorityFile(dir));
  await writeFile(authorityFile(dir), JSON.stringify({ current, previous: [] }), { mode: 0o644 });
  await t.throwsAsync(openAuthority(dir, Date.now()), { message: /mode 0644/ });
});

test('after a roll-over, those who know the old authority, the new one or both find the server; a stranger does not', async (t) => {
  const dir = await folder(t);
  const clock = { nowMs: Date.now(), now: () => clock.nowMs };
  const read = source(dir, clock);
  const before = await read();
  const [first = ''] = before.trusted;
  t.is(await visit(before, first), 'TLSv1.3');
  t.is(await visit(before, first, 'elsewhere.example'), 'ERR_TLS_CERT_ALTNAME_INVALID');

  await rotateAuthority(dir, hour, clock.now());
  const after = await read(before);
  const [second = ''] = after.trusted;
  t.deepEqual(after.trusted, [second, first]);
  t.not(second, first);
  t.is(await readFile(join(dir, 'tls', 'ca.pem'), 'utf8'), second + first, 'the users of this machine learn of it');
  for (const ca of [first, second, after.trusted.join('')]) t.is(await visit(after, ca), 'TLSv1.3');
  const stranger = await openAuthority(await folder(t), Date.now());
  t.is(await visit(after, stranger.current.certificate), 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY');

  // Twice within the overlap: who knows only the first still finds the way, over two signatures.
  await rotateAuthority(dir, hour, clock.now());
  const twice = await read(after);
  t.is(twice.trusted.length, 3);
  for (const ca of twice.trusted) t.is(await visit(twice, ca), 'TLSv1.3');

  clock.nowMs += hour;
  const over = await read(twice);
  t.deepEqual(over.trusted, twice.trusted.slice(0, 1));
  t.is(await visit(over, first), 'UNABLE_TO_VERIFY_LEAF_SIGNATURE');
});

test('without an overlap the old authority is good for nothing at once', async (t) => {
  const dir = await folder(t);
  const read = source(dir, Date);
  const before = await read();
  const rotated = await rotateAuthority(dir, 0, Date.now());
  t.deepEqual(trustedBy(rotated, Date.now()), [rotated.current.certificate]);
  t.is(await visit(await read(before), before.trusted[0] ?? ''), 'UNABLE_TO_VERIFY_LEAF_SIGNATURE');
});

test('so many are replaced within one overlap and no more, and where there is none, none is made', async (t) => {
  const dir = await folder(t);
  await t.throwsAsync(rotateAuthority(dir, hour, Date.now()), {
    instanceOf: TlsError,
    message: /there is no certificate/,
  });
  t.is(await readAuthority(dir), undefined);
  await openAuthority(dir, Date.now());
  for (let i = 0; i < 16; i += 1) await rotateAuthority(dir, hour, Date.now());
  const before = await readAuthority(dir);
  await t.throwsAsync(rotateAuthority(dir, hour, Date.now()), {
    instanceOf: TlsError,
    message: /16 old auth.*wait until/,
  });
  t.deepEqual(await readAuthority(dir), before);
  t.is(trustedBy(await rotateAuthority(dir, 0, Date.now()), Date.now()).length, 1);
});

test('each authority is recorded once, also one that came while nobody ran', async (t) => {
  const dir = await folder(t);
  const said: string[] = [];
  const run = async (fails = false) => {
    const onAuthority = async ({ code, message }: { code: string; message: string }) => {
      if (fails) throw new Error('the disk is full');
      said.push(`${code}: ${message}`);
    };
    const read = ownSource({ dataDir: dir, names: ['localhost'], leafTtlMs: hour, log, clock: Date, onAuthority });
    const material = await read.read(undefined, true);
    return { material, again: () => read.read(material, true) };
  };
  const { material, again } = await run();
  const [first = ''] = certificatesIn(material.trusted.join('')).map(fingerprintOf);
  await again();
  await run();
  t.deepEqual(said, [`ca_made: ${first}, by which agents and users know this control plane`]);
  const { previous, current } = await rotateAuthority(dir, hour, Date.now());
  await run(true);
  await again();
  const until = new Date(previous[0]?.trustedUntilMs ?? 0).toISOString();
  const [second = ''] = certificatesIn(current.certificate).map(fingerprintOf);
  t.deepEqual(said.slice(1), [`ca_replaced: ${first} by ${second}; the one before is good until ${until}`]);
  await rotateAuthority(dir, 0, Date.now());
  await run();
  t.regex(said[2] ?? '', /; the one before is good no more$/);
  t.is(said.length, 3);
});

test('a certificate is renewed at two thirds of its life, an authority at two thirds of its own', async (t) => {
  const dir = await folder(t);
  const clock = { nowMs: Date.now(), now: () => clock.nowMs };
  const read = source(dir, clock);
  const first = await read();
  clock.nowMs += (hour * 2) / 3 - 1000;
  t.is(await read(first), first);
  clock.nowMs += 2000;
  const second = await read(first);
  t.not(second.chain, first.chain);
  t.true(second.endMs > first.endMs);
  t.deepEqual(second.trusted, first.trusted);
  clock.nowMs += 7 * 365 * 24 * hour;
  const third = await read(second);
  t.is(third.trusted.length, 2);
  t.is(third.trusted[1], first.trusted[0]);
});

test('a certificate that was made while the clock was far ahead is replaced when the clock is right again', async (t) => {
  const dir = await folder(t);
  const clock = { nowMs: Date.now() + 365 * 24 * hour, now: () => clock.nowMs };
  const read = source(dir, clock);
  const ahead = await read();
  clock.nowMs = Date.now();
  const right = await read(ahead);
  t.true(right.endMs <= clock.nowMs + hour);
  t.deepEqual(right.trusted, ahead.trusted);
});

test('a machine that believes it is long ago finds every certificate valid', async (t) => {
  const dir = await folder(t);
  const read = source(dir, Date);
  const before = await read();
  await rotateAuthority(dir, hour, Date.now());
  const { chain, trusted } = await read(before);
  const all = certificatesIn([chain, ...trusted].join(''));
  t.is(all.length, 4, 'its own, the new CA by the old one, and both of them');
  for (const one of all) t.is(one.validFromDate.getTime(), 0);
});
