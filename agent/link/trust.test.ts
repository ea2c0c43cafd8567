import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import type { RequestListener } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import test, { type ExecutionContext } from 'ava';
import { crossSign, makeAuthority, makeLeaf } from '../../control-plane/tls/certificate.ts';
import { certificatesIn, fingerprintOf, parseFingerprint } from '../../proto/fingerprint.ts';
import { TrustBundleSchema } from '../../proto/gen/baykeeper/v1/trust_bundle_pb.js';
import { renewByProof } from './enroll.ts';
import { EnrollError } from './enroll_error.ts';
import { fetchAuthority } from './fetch_authority.ts';
import { openIdentity } from './identity.ts';
import { systemTrust, trustFrom, trustIn } from './trust.ts';

const hour = 3_600_000;
const soon = () => Date.now() + hour;

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'agent-trust-'));
  t.teardown(() => rm(path, { recursive: true }));
  return path;
}

async function serve(t: ExecutionContext, leaf: { certificate: string; key: string }, listener: RequestListener) {
  const server = createServer({ cert: leaf.certificate, key: leaf.key }, listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => void server.close());
  return `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test('a CA is taken by its fingerprint, and no other that comes with it', async (t) => {
  const [ca, other] = [await makeAuthority(soon()), await makeAuthority(soon())];
  const leaf = await makeLeaf(ca, ['127.0.0.1'], soon());
  const fingerprint = (one: { certificate: string }) => certificatesIn(one.certificate).map(fingerprintOf)[0] ?? '';
  const server = await serve(t, leaf, (request, response) => {
    if (request.url !== '/ca.pem') response.writeHead(404).end();
    else response.end(`${other.certificate}${leaf.certificate}${ca.certificate}`);
  });
  t.is(await fetchAuthority(server, fingerprint(ca)), ca.certificate);
  for (const wrong of [`sha256:${'ab'.repeat(32)}`, fingerprint(leaf)]) {
    const error = await t.throwsAsync(fetchAuthority(server, wrong), { instanceOf: EnrollError });
    t.is(error?.kind, 'denied', 'also for a certificate that is no CA');
    t.true(error?.message.includes(fingerprint(ca)));
  }
  const endless = await serve(t, leaf, (_, response) => {
    response.on('error', () => undefined);
    const write = (): void => {
      while (!response.destroyed && response.write('x'.repeat(65_536)));
      if (!response.destroyed) response.once('drain', write);
    };
    write();
  });
  await t.throwsAsync(fetchAuthority(endless, fingerprint(ca)), { message: /too long|aborted/ });
  const silent = await serve(t, leaf, () => undefined);
  await t.throwsAsync(fetchAuthority(silent, fingerprint(ca), 300), { message: /no answer within 0.3 s/ });
});

test('fingerprints are understood as people write them', (t) => {
  const digits = 'ab'.repeat(32);
  for (const text of [`sha256:${digits}`, digits.toUpperCase(), `SHA256:${digits.match(/../g)?.join(':')}`]) {
    t.is(parseFingerprint(text), `sha256:${digits}`);
  }
  for (const text of ['', 'sha256:', digits.slice(1), `md5:${digits}`, `${digits}0`])
    t.is(parseFingerprint(text), undefined);
});

test('what is wrong with a certificate is said, and nothing is sent to its owner', async (t) => {
  const [ca, other] = [await makeAuthority(soon()), await makeAuthority(soon())];
  const identity = await openIdentity(await folder(t));
  const asked: string[] = [];
  const cases: [Parameters<typeof serve>[1], { certificate: string }, RegExp][] = [
    [await makeLeaf(ca, ['127.0.0.1'], soon()), other, /nobody whom this machine trusts/],
    [await makeLeaf(ca, ['127.0.0.2'], soon()), ca, /another name/],
    [await makeLeaf(ca, ['127.0.0.1'], Date.now() - hour), ca, /has expired/],
  ];
  for (const [leaf, trusted, message] of cases) {
    const server = await serve(t, leaf, (request, response) => {
      asked.push(request.url ?? '');
      response.end();
    });
    const options = { server, identity, nowMs: Date.now, trusted: [trusted.certificate] };
    const error = await t.throwsAsync(renewByProof(options), { instanceOf: EnrollError, message });
    t.is(error?.kind, 'unavailable', 'it may be right again later');
  }
  t.deepEqual(asked, []);
});

test('trust is kept for its owner alone, and what is damaged trusts nobody', async (t) => {
  const path = await folder(t);
  const first = await openIdentity(path);
  t.deepEqual(first.trust, systemTrust);
  const { certificate } = await makeAuthority(soon());
  await first.trustIn(trustIn([certificate]));
  t.deepEqual((await openIdentity(path)).trust, trustIn([certificate]));
  t.is((await stat(join(path, 'trust.json'))).mode & 0o777, 0o600);
  await writeFile(join(path, 'trust.json'), '{"certificates": 3}');
  t.deepEqual((await openIdentity(path)).trust.certificates, []);
});

test('a bundle is looked at before it is believed', async (t) => {
  const ca = await makeAuthority(soon());
  const next = await makeAuthority(soon());
  const bundle = create(TrustBundleSchema, {
    caCertificates: [next.certificate, ca.certificate],
    brokerCaCertificates: [await crossSign(next, ca)],
    serverUrls: ['https://a.example', 'http://b.example', 'file:///etc', 'nonsense'],
  });
  const trust = trustFrom(bundle, 'https://a.example');
  t.deepEqual(trust.certificates, [next.certificate, ca.certificate]);
  t.is(trust.brokerCertificates?.length, 1);
  t.deepEqual(trust.serverUrls, ['https://a.example'], 'TLS is not given up');
  bundle.serverUrls.push('http://127.0.0.1:7480');
  t.deepEqual(trustFrom(bundle, 'http://127.0.0.1').serverUrls, ['https://a.example', 'http://127.0.0.1:7480']);
  t.regex(trust.digest, /^[0-9a-f]{64}$/);
  t.is(trustFrom(create(TrustBundleSchema, {}), 'https://a.example').certificates, undefined);
  for (const caCertificates of [['rubbish'], Array(40).fill(ca.certificate)]) {
    t.throws(() => trustFrom(create(TrustBundleSchema, { caCertificates }), 'https://a.example'));
  }
});
