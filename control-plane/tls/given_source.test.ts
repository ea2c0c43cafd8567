import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { pino } from 'pino';
import { crossSign, makeAuthority, makeLeaf } from './certificate.ts';
import { givenSource } from './given_source.ts';
import { openServerCertificate } from './server_certificate.ts';

const hour = 3_600_000;

async function given(t: import('ava').ExecutionContext) {
  const dir = await mkdtemp(join(tmpdir(), 'baykeeper-tls-'));
  t.teardown(() => rm(dir, { recursive: true }));
  const files = { certificateFile: join(dir, 'cert.pem'), keyFile: join(dir, 'key.pem'), caFile: join(dir, 'ca.pem') };
  const root = await makeAuthority(Date.now() + 10 * hour);
  const write = async (certificate: string, key: string, ca = root.certificate) => {
    await writeFile(files.certificateFile, certificate);
    await writeFile(files.keyFile, key, { mode: 0o600 });
    await writeFile(files.caFile, ca);
  };
  const open = (names: readonly string[] = ['bays.example.com']) =>
    givenSource({ ...files, names, clock: Date }).read(undefined, true);
  return { files, root, write, open };
}

test('a certificate that is given is taken with its chain', async (t) => {
  const { root, write, open, files } = await given(t);
  const middle = await makeAuthority(Date.now() + 5 * hour);
  const cross = await crossSign(middle, root);
  const leaf = await makeLeaf(middle, ['*.example.com', '10.0.0.1'], Date.now() + hour);
  await write(`${leaf.certificate}\n${cross}\n`, leaf.key);
  const material = await open(['bays.example.com', '10.0.0.1']);
  t.is(material.chain.match(/BEGIN CERTIFICATE/g)?.length, 2);
  t.is(material.trusted.length, 1);
  const everybodys = givenSource({ ...files, caFile: undefined, names: [], clock: Date });
  t.deepEqual((await everybodys.read(undefined, true)).trusted, []);
});

test('what is wrong with it is said with the file, and never with the key', async (t) => {
  const { root, write, open, files } = await given(t);
  const leaf = await makeLeaf(root, ['bays.example.com'], Date.now() + hour);
  const other = await makeAuthority(Date.now() + hour);
  const past = await makeLeaf(root, ['bays.example.com'], Date.now() - hour);
  const wrong: [() => Promise<void>, RegExp][] = [
    [() => write(past.certificate, past.key), /cert\.pem expired on 20/],
    [() => write(leaf.certificate, other.key), /key\.pem is not that of the first certificate in .*cert\.pem/],
    [() => write(leaf.certificate, leaf.key, other.certificate), /no certificate in .*ca\.pem vouches/],
    [() => write('nothing', leaf.key), /cert\.pem holds no certificate/],
    [() => write(leaf.certificate, 'nothing'), /key\.pem holds no private key/],
    [() => write(leaf.certificate.replace(/[A-Za-z0-9+/]{9}\n/, '\n'), leaf.key), /cert\.pem holds a certificate that/],
    [() => write(leaf.certificate, leaf.key).then(() => rm(files.keyFile)), /key\.pem is missing/],
  ];
  for (const [arrange, message] of wrong) {
    await arrange();
    const error = await t.throwsAsync(open(), { message });
    t.false(`${error?.stack}`.includes(leaf.key.slice(40, 80)));
  }
  await write(leaf.certificate, leaf.key);
  await t.throwsAsync(open(['other.example.com']), {
    message: /is not for other\.example\.com.*DNS:bays\.example\.com/,
  });
});

test('of several CAs the one that vouches is told first, and one that has expired vouches for nobody', async (t) => {
  const { root, write, open } = await given(t);
  const leaf = await makeLeaf(root, ['bays.example.com'], Date.now() + hour);
  const next = await makeAuthority(Date.now() + hour);
  await write(leaf.certificate, leaf.key, `${next.certificate}${root.certificate}`);
  t.deepEqual((await open()).trusted, [root.certificate, next.certificate]);

  const past = await crossSign(root, await makeAuthority(Date.now() - hour));
  await write(leaf.certificate, leaf.key, past);
  await t.throwsAsync(open(), { message: /no certificate in .*ca\.pem vouches.*expired/ });
});

test('it is said a day before the end that nobody has replaced it, once an hour', async (t) => {
  const { root, write, files } = await given(t);
  const leaf = await makeLeaf(root, ['bays.example.com'], Date.now() + 9 * hour);
  await write(leaf.certificate, leaf.key);
  const clock = { nowMs: Date.now() - 16 * hour, now: () => clock.nowMs };
  const source = givenSource({ ...files, caFile: undefined, names: [], clock });
  const said: string[] = [];
  const log = pino({ level: 'error' }, { write: (line) => void said.push(JSON.parse(line).msg) });
  const certificate = await openServerCertificate({ source, log, clock, checkMs: 3_600_000 });
  t.teardown(() => certificate.close());
  await certificate.refresh();
  t.deepEqual(said, []);
  clock.nowMs += 2 * hour;
  for (let i = 0; i < 3; i += 1) await certificate.refresh();
  t.deepEqual(said, ['the certificate ends soon']);
  clock.nowMs += 2 * hour;
  await certificate.refresh();
  t.is(said.length, 2);
  clock.nowMs += 24 * hour;
  await certificate.refresh();
  t.deepEqual(said.slice(2), ['the certificate has ended: nobody comes in']);
});

test('a changed file is taken up, a broken one leaves the certificate as it was', async (t) => {
  const { root, write, files } = await given(t);
  const first = await makeLeaf(root, ['bays.example.com'], Date.now() + hour);
  await write(first.certificate, first.key);
  const source = givenSource({ ...files, names: [], clock: Date });
  const log = pino({ level: 'silent' });
  const certificate = await openServerCertificate({ source, log, clock: Date, checkMs: 3_600_000 });
  t.teardown(() => certificate.close());
  const seen: string[] = [];
  certificate.onChange((material) => seen.push(material.key));
  await certificate.refresh();
  t.is(seen.length, 0, 'nothing has changed');

  const second = await makeLeaf(root, ['bays.example.com'], Date.now() + hour);
  await writeFile(files.certificateFile, second.certificate);
  await certificate.refresh();
  t.is(certificate.current.key, first.key, 'the key is still the old one');
  await writeFile(files.keyFile, second.key);
  await certificate.refresh();
  t.deepEqual(seen, [second.key]);
});
