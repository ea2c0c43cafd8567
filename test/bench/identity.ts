import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { create, toBinary } from '@bufbuild/protobuf';
import { pino } from 'pino';
import { Registry } from 'prom-client';
import { defaultRoleNames } from '../../control-plane/auth/keystone/principal_of.ts';
import { openAuthenticators } from '../../control-plane/auth/open_authenticators.ts';
import { createStoreMetrics } from '../../control-plane/store/metrics.ts';
import { openSqliteStore } from '../../control-plane/store/sqlite.ts';
import { CreateContainerRequestSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { startControlPlane } from '../harness/control_plane.ts';
import { password } from '../harness/keystone/api.ts';
import { type Keystone, startKeystone } from '../harness/keystone/keystone.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { container } from './api.ts';
import { h2load, loadRow, type Row } from './measure.ts';

/** What it costs to find out who is calling, beside what a create costs as a whole. */
export async function identity(): Promise<Row[]> {
  await using keystone = await startKeystone();
  const token = await keystone.token('alice');
  await using controlPlane = await startControlPlane({
    args: ['--log-level', 'warn', '--keystone-cloud', 'envvars'],
    env: {
      OS_AUTH_URL: keystone.url,
      OS_USERNAME: 'baykeeper',
      OS_PASSWORD: password,
      OS_PROJECT_NAME: 'service',
    },
  });
  const headers = { authorization: `Bearer ${token}` };
  const made = await fetch(`${controlPlane.url}/baykeeper.v1.BayService/CreateBay`, {
    method: 'POST',
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify({
      bay: { metadata: { name: 'bench' }, spec: { containerEngine: 'CONTAINER_ENGINE_DOCKER' } },
    }),
  });
  if (!made.ok) throw new Error(`CreateBay answered ${made.status}: ${await made.text()}`);
  const load = await h2load({
    url: `${controlPlane.url}/baykeeper.v1.ContainerService/CreateContainer`,
    body: toBinary(CreateContainerRequestSchema, create(CreateContainerRequestSchema, { container: container('') })),
    headers: { ...headers, 'content-type': 'application/proto' },
    callers: 32,
    seconds: 10,
  });
  const createUs = 1_000_000 / load.perSecond;
  const checkUs = await checkMicroseconds(keystone, token);
  return [
    loadRow('create a container, 32 callers, Connect, token of Keystone', load, ''),
    {
      what: '  of it, to find out who is calling, when Keystone has been asked before',
      measured: `${checkUs.toFixed(1)} µs, ${((100 * checkUs) / createUs).toFixed(1)} %`,
      target: '3 %',
    },
  ];
}

/** Of one check by all that a control plane asks, Keystone as the last of them, with its answer at hand. */
async function checkMicroseconds(keystone: Keystone, token: string): Promise<number> {
  await using folder = await temporaryFolder('identity');
  const registry = new Registry();
  const clock = { now: () => Date.now() };
  const log = pino({ level: 'silent' });
  const file = path.join(folder.path, 'store.db');
  const store = await openSqliteStore({ file, clock, log, metrics: createStoreMetrics(registry) });
  const cloudsFile = path.join(folder.path, 'clouds.yaml');
  const auth = { auth_url: keystone.url, username: 'baykeeper', password, project_name: 'service' };
  await writeFile(cloudsFile, JSON.stringify({ clouds: { own: { auth } } }));
  const keystoneConfig = {
    cloud: 'own',
    cloudsFile,
    cacheMs: 60_000,
    timeoutMs: 5_000,
    roleNames: defaultRoleNames,
    allowPlaintext: false,
  };
  try {
    await using opened = await openAuthenticators({
      config: {
        callerRate: 1,
        callerStreams: 1,
        callerBurst: 1,
        tokenFile: undefined,
        keepTokensMs: 0,
        oidc: undefined,
        keystone: keystoneConfig,
      },
      dataDir: folder.path,
      store,
      clock,
      log,
      registry,
    });
    const { authenticator } = opened;
    const me = await authenticator.authenticate({ token });
    if (me?.project !== keystone.projects.red) throw new Error('Keystone does not know the token');
    const rounds = 200_000;
    let startedMs = 0;
    // The first half warms it up.
    for (let i = -rounds; i < rounds; i += 1) {
      if (i === 0) startedMs = performance.now();
      if (!authenticator.authenticate({ token })) throw new Error('the token is nobody');
    }
    return ((performance.now() - startedMs) * 1_000) / rounds;
  } finally {
    await store.close();
  }
}
