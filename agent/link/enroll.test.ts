import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, type ServiceImpl } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import test, { type ExecutionContext } from 'ava';
import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import {
  type Credentials,
  CredentialsSchema,
  EnrollmentService,
  type EnrollRequest,
  type KeyProof,
  type RenewCredentialsRequest,
} from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { fromPublic } from '../../proto/nkeys.ts';
import { ownProgram, run } from '../../test/harness/program.ts';
import { testSigner } from '../../test/harness/signing.ts';
import { EnrollError, enroll, renewByProof } from './enroll.ts';
import { expireTimeMs, IdentityError, openIdentity, readNode, renewTimeMs } from './identity.ts';
import { proveApart } from './prove_apart.ts';

const credentials = (nodeUid = 'node-1') =>
  create(CredentialsSchema, {
    project: 'default',
    bayUid: 'bay-1',
    bay: 'edge-1',
    nodeUid,
    node: 'n1',
    userJwt: 'e30.e30.x',
    issueTime: timestampFromMs(1_000_000),
    expireTime: timestampFromMs(4_000_000),
    brokerUrls: ['nats://127.0.0.1:4222'],
    signingKeys: testSigner.keys(),
  });
const challenge = new TextEncoder().encode('sign this');

const hexOf = ({ signingKeys }: Credentials): string =>
  signingKeys.map(({ publicKey }) => Buffer.from(publicKey).toString('hex')).join();

function assertProof(t: ExecutionContext, proof: KeyProof | undefined): void {
  t.true(fromPublic(proof?.publicKey ?? '').verify(challenge, proof?.signature ?? new Uint8Array()));
}

/** An EnrollmentService that does as a test says. Returns its URL. */
async function serve(t: ExecutionContext, service: Partial<ServiceImpl<typeof EnrollmentService>>): Promise<string> {
  const routes = connectNodeAdapter({
    routes: (router) => {
      router.service(EnrollmentService, { createChallenge: () => ({ challenge }), ...service });
    },
  });
  const server = createServer(routes);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => new Promise((resolve) => server.close(() => resolve(undefined))));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'agent-enroll-'));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return join(path, 'data');
}
const join_ = { token: 'id.secret', bay: 'edge-1', nodeName: 'n1', agentVersion: '1' };

test('enrols with a proof of its key', async (t) => {
  const seen: EnrollRequest[] = [];
  const server = await serve(t, {
    enroll: (request) => {
      seen.push(request);
      return { credentials: credentials() };
    },
  });
  const identity = await openIdentity(await folder(t));
  const given = await enroll({ server, identity, nowMs: () => 5_000 }, join_);
  t.is(given.node, 'n1');
  assertProof(t, seen[0]?.proof);
  t.is(seen[0]?.token, 'id.secret');
  t.is(seen[0]?.time?.seconds, 5n);
});

test('says what is wrong in the words of the server', async (t) => {
  const cases = [
    [Code.PermissionDenied, 'denied'],
    [Code.FailedPrecondition, 'clock'],
    [Code.InvalidArgument, 'invalid'],
    [Code.Unavailable, 'unavailable'],
  ] as const;
  for (const [code, kind] of cases) {
    const server = await serve(t, {
      enroll: () => {
        throw new ConnectError(`the token expired at noon (${code})`, code);
      },
    });
    const identity = await openIdentity(await folder(t));
    const error = await t.throwsAsync(enroll({ server, identity, nowMs: Date.now }, join_), {
      instanceOf: EnrollError,
    });
    t.is(error?.kind, kind);
    t.true(error?.message.includes(`the token expired at noon (${code})`));
  }
});

test('a server that is not there, or is something else, is told apart', async (t) => {
  const identity = await openIdentity(await folder(t));
  const away = await t.throwsAsync(renewByProof({ server: 'http://127.0.0.1:1', identity, nowMs: Date.now }));
  t.is((away as EnrollError).kind, 'unavailable');
  const other = createServer((_, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>'));
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  t.teardown(() => void other.close());
  const { port } = other.address() as AddressInfo;
  await t.throwsAsync(renewByProof({ server: `http://127.0.0.1:${port}`, identity, nowMs: Date.now }), {
    instanceOf: EnrollError,
  });
});

test('key and credentials lie in files of mode 0600, and are used again', async (t) => {
  const path = await folder(t);
  const first = await openIdentity(path);
  await first.take(credentials());
  await first.enrolledAt('http://127.0.0.1:7300');
  t.is((await stat(path)).mode & 0o777, 0o700);
  for (const name of await readdir(path)) t.is((await stat(join(path, name))).mode & 0o777, 0o600, name);
  const second = await openIdentity(path);
  t.is(second.publicKey, first.publicKey);
  t.is(second.credentials?.nodeUid, 'node-1');
  t.is(second.server, 'http://127.0.0.1:7300');
  t.is(expireTimeMs(credentials()), 4_000_000);
  t.is(renewTimeMs(credentials()), 3_000_000);
});

test('damaged credentials are no credentials, but the node knows who it is', async (t) => {
  const path = await folder(t);
  await (await openIdentity(path)).take(credentials());
  const whole = await readFile(join(path, 'credentials.bin'));
  for (const damaged of [Buffer.alloc(0), Buffer.from('garbage'), whole.subarray(0, 40), Buffer.alloc(100, 0xff)]) {
    await writeFile(join(path, 'credentials.bin'), damaged);
    const identity = await openIdentity(path);
    t.is(identity.credentials, undefined);
    t.is(identity.node?.nodeUid, 'node-1');
    await t.throwsAsync(identity.take(credentials('node-2')), { instanceOf: IdentityError });
  }
  await writeFile(join(path, 'identity.seed'), 'garbage');
  await t.throwsAsync(openIdentity(path), { instanceOf: IdentityError });
});

test('join prints what the server says, with an exit code of its own', async (t) => {
  let refuse = true;
  const server = await serve(t, {
    enroll: () => {
      if (refuse) throw new ConnectError('the token was revoked', Code.PermissionDenied);
      return { credentials: credentials() };
    },
  });
  const path = await folder(t);
  const join1 = (...more: string[]) =>
    run(
      ownProgram(
        'agent/main.ts',
        'join',
        '--server',
        server,
        '--token',
        'a.b',
        '--name',
        'n1',
        '--data',
        path,
        '--enroll-only',
        ...more,
      ),
    );
  const refused = await join1();
  t.is(refused.code, 3);
  t.is(refused.stderr, 'baykeeper-agent: the token was revoked\n');
  refuse = false;
  const joined = await join1();
  t.is(joined.code, 0, joined.stderr);
  t.regex(joined.stderr, /joined bay edge-1 as node n1/);
  t.is((await join1('--bay', 'edge-1')).code, 0);
  const elsewhere = await join1('--bay', 'edge-2');
  t.is(elsewhere.code, 2);
  t.regex(elsewhere.stderr, /node n1 of bay edge-1 already/);
});

test('run takes another URL of the control plane, and says in one sentence what it cannot use', async (t) => {
  const path = await folder(t);
  const runWith = (...more: string[]) => run(ownProgram('agent/main.ts', 'run', '--data', path, ...more));
  const rubbish = await runWith('--server', 'rubbish');
  t.is(rubbish.code, 2);
  t.regex(rubbish.stderr, /^baykeeper-agent: --server: expected http:.*\n$/);
  const clear = await runWith('--server', 'http://bays.example.com:7480');
  t.is(clear.code, 2);
  t.regex(clear.stderr, /^baykeeper-agent: --server: bays\.example\.com:7480 is beyond this machine.*https:\/\/\n$/);
  const stranger = await runWith('--server', 'http://127.0.0.1:1');
  t.is(stranger.code, 2);
  t.regex(stranger.stderr, /has not joined/);
  t.deepEqual(
    (await readdir(path)).filter((name) => name === 'server'),
    [],
    'it does not look as if it had joined',
  );
  await writeFile(join(path, 'identity.seed'), 'garbage');
  const damaged = await runWith();
  t.is(damaged.code, 2);
  t.regex(damaged.stderr, /identity\.seed holds no usable key/);
});

test('the engine of its bay outlives damaged credentials, and is Docker where nothing was said', async (t) => {
  const path = await folder(t);
  t.is(await readNode(path), undefined);
  await (await openIdentity(path)).take(credentials());
  t.is((await openIdentity(path)).node?.containerEngine, ContainerEngine.DOCKER);
  await (await openIdentity(path)).take({ ...credentials(), containerEngine: ContainerEngine.KUBERNETES });
  t.is((await openIdentity(path)).node?.containerEngine, ContainerEngine.KUBERNETES);
  await writeFile(join(path, 'credentials.bin'), 'garbage');
  t.is((await openIdentity(path)).node?.containerEngine, ContainerEngine.KUBERNETES);
  t.is((await readNode(path))?.containerEngine, ContainerEngine.KUBERNETES);
  // As agents wrote it when all bays were of Docker.
  const { containerEngine: _, ...before } = JSON.parse(await readFile(join(path, 'node.json'), 'utf8'));
  await writeFile(join(path, 'node.json'), JSON.stringify(before));
  t.is((await openIdentity(path)).node?.containerEngine, ContainerEngine.DOCKER);
});

test('asked apart, the control plane gives credentials, and says whom to trust and where it is', async (t) => {
  const asked: RenewCredentialsRequest[] = [];
  const server = await serve(t, {
    renewCredentials: (request) => {
      asked.push(request);
      return { credentials: credentials(), trust: { serverUrls: ['https://other.example:7480'] } };
    },
  });
  const data = await folder(t);
  const identity = await openIdentity(data);
  await identity.enrolledAt('http://127.0.0.1:1');
  await identity.trustIn({ ...identity.trust, serverUrls: [server] });
  const given = await proveApart(identity, new AbortController().signal);
  t.is(given.node, 'n1');
  t.is(hexOf(given), hexOf(credentials()));
  assertProof(t, asked[0]?.proof);
  t.is(asked[0]?.proof?.publicKey, identity.publicKey);
  const kept = await openIdentity(data);
  t.is(kept.server, server);
  t.deepEqual(kept.trust.serverUrls, ['https://other.example:7480']);
});

test('asked apart, what the control plane has against it is said in its words', async (t) => {
  const server = await serve(t, {
    renewCredentials() {
      throw new ConnectError('node n1 of bay edge-1 was revoked', Code.PermissionDenied);
    },
  });
  const identity = await openIdentity(await folder(t));
  await identity.enrolledAt(server);
  const signal = new AbortController().signal;
  const refused = await t.throwsAsync(proveApart(identity, signal), { instanceOf: EnrollError });
  t.is(refused?.kind, 'denied');
  t.is(refused?.message, 'node n1 of bay edge-1 was revoked');
  await identity.enrolledAt('http://127.0.0.1:1');
  const away = await t.throwsAsync(proveApart(identity, signal), { instanceOf: EnrollError });
  t.is(away?.kind, 'unavailable');
  t.regex(away?.message ?? '', /cannot reach the control plane at http:\/\/127\.0\.0\.1:1/);
});

test('asked apart, a control plane that says nothing is waited for no longer than the agent lives', async (t) => {
  const stopping = new AbortController();
  const server = await serve(t, {
    async renewCredentials(_, { signal }) {
      stopping.abort();
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
      return {};
    },
  });
  const identity = await openIdentity(await folder(t));
  await identity.enrolledAt(server);
  const ended = await t.throwsAsync(proveApart(identity, stopping.signal), { instanceOf: EnrollError });
  t.is(ended?.kind, 'unavailable');
  t.regex(ended?.message ?? '', /the process that asks the control plane .*abort/);
});
