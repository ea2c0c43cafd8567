import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { create, toBinary } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import { systemClock } from '../../agent/clock.ts';
import { FileMemory } from '../../agent/containers/memory.ts';
import { ClusterError } from '../../agent/drivers/cluster_error.ts';
import { parseKubeconfig } from '../../agent/drivers/kubernetes/kubeconfig.ts';
import { IdentityError, openIdentity } from '../../agent/link/identity.ts';
import { silentLog } from '../../agent/log.ts';
import { resolveSettings } from '../../cli/context.ts';
import { CliError } from '../../cli/errors.ts';
import { parseObjects } from '../../cli/manifest.ts';
import { parseDocuments } from '../../cli/manifest_yaml.ts';
import { captureIo } from '../../cli/run_fixture.ts';
import { CredentialsSchema } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { createUser } from '../../proto/nkeys.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { fuzz } from './fuzz.ts';
import { mutated } from './mutate.ts';

/* Files that users, other tools and broken disks give us: each is taken, or refused with an error that says so, in no time. */

const bytes = (text: string) => new TextEncoder().encode(text);

/** Throws for an error of another class than these, and for what takes longer than anybody would wait. */
async function refusedOrTaken(
  read: () => unknown,
  ...errors: readonly (abstract new (
    ...args: never[]
  ) => Error)[]
): Promise<void> {
  const startMs = performance.now();
  try {
    await read();
  } catch (error) {
    if (!errors.some((kind) => error instanceof kind)) throw error;
    if (!(error as Error).message) throw new Error('refused without a word', { cause: error });
  }
  const tookMs = performance.now() - startMs;
  if (tookMs > 5_000) throw new Error(`took ${Math.round(tookMs)} ms`);
}

test.serial('manifests', async (t) => {
  const folder = path.join(import.meta.dirname, '..', 'journeys', 'redis');
  const samples: Uint8Array[] = readdirSync(folder).map(
    (name) => new Uint8Array(readFileSync(path.join(folder, name))),
  );
  samples.push(
    bytes('a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n'),
    bytes(
      'apiVersion: baykeeper/v1\nkind: Container\nmetadata: {name: web, labels: {a: b}}\nspec:\n  image: busybox\n  env: [{name: A, value: "1"}]\n  ports: [{container_port: 80, host_port: 8080}]\n  stop_timeout: 5s\n---\n# nothing\n---\napiVersion: baykeeper/v1\nkind: Bay\nmetadata: {name: b}\nspec: {bay_model: m}\n',
    ),
    bytes(
      '{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"ports":[{"port":80,"targetPort":"http"}]}}]}{"apiVersion":"v1","kind":"PodList","items":[]}',
    ),
  );
  const defaults = { bay: 'local', namespace: '', bayFlag: '', namespaceFlag: '' };
  await fuzz(t, {
    target: 'manifests',
    input: mutated(samples),
    runs: 3_000,
    check: (input) =>
      refusedOrTaken(() => {
        for (const document of parseDocuments('f.yaml', input)) parseObjects(document, defaults);
      }, CliError),
  });
});

test.serial('kubeconfigs', async (t) => {
  const sample = bytes(`apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: c, user: u, namespace: n}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: aGFsbG8=, tls-server-name: x}}]
users:
- name: u
  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: get-token, args: [a], env: [{name: A, value: b}], interactiveMode: Never}}
- name: v
  user: {token: secret-of-the-sample, client-certificate: a.crt, client-key: a.key, tokenFile: t}
`);
  await fuzz(t, {
    target: 'kubeconfigs',
    input: mutated([sample]),
    runs: 2_000,
    check: (input) =>
      refusedOrTaken(() => {
        const text = new TextDecoder().decode(input);
        try {
          parseKubeconfig([{ path: 'config', text }]);
        } catch (error) {
          if (String(error).includes('secret-of-the-sample')) throw new Error('a secret is repeated', { cause: error });
          throw error;
        }
      }, ClusterError),
  });
});

test.serial('the files of bayctl', async (t) => {
  await using home = await temporaryFolder('fuzz-bayctl');
  await mkdir(path.join(home.path, '.baykeeper'));
  const file = path.join(home.path, '.baykeeper', 'config.yaml');
  const sample = bytes(
    'current-context: a\ncontexts:\n  a: {server: "https://127.0.0.1:7480", token: t, bay: b, namespace: n}\n  b: {server: "http://localhost:1", token_file: x}\n',
  );
  await fuzz(t, {
    target: 'bayctl',
    input: mutated([sample]),
    runs: 1_000,
    check: async (input) => {
      await writeFile(file, input);
      await refusedOrTaken(() => resolveSettings(captureIo({ home: home.path }), {}), CliError);
    },
  });
});

test.serial('the identity of an agent', async (t) => {
  await using folder = await temporaryFolder('fuzz-identity');
  const credentials = create(CredentialsSchema, {
    bay: 'b',
    node: 'n',
    bayUid: 'bay-uid',
    nodeUid: 'node-uid',
    userJwt: 'a.b.c',
    brokerUrls: ['nats://127.0.0.1:4222'],
    expireTime: timestampFromMs(Date.now() + 60_000),
  });
  const files: Readonly<Record<string, Uint8Array>> = {
    'identity.seed': createUser().getSeed(),
    'credentials.bin': toBinary(CredentialsSchema, credentials),
    'node.json': bytes('{"bayUid":"bay-uid","bay":"b","nodeUid":"node-uid","node":"n","containerEngine":"docker"}'),
    server: bytes('http://127.0.0.1:7480\n'),
  };
  for (const [name, sample] of Object.entries(files)) {
    await rm(folder.path, { recursive: true });
    await mkdir(folder.path);
    for (const [other, content] of Object.entries(files)) await writeFile(path.join(folder.path, other), content);
    await fuzz(t, {
      target: `identity/${name}`,
      input: mutated([sample]),
      runs: 150,
      check: async (input) => {
        await writeFile(path.join(folder.path, name), input);
        await refusedOrTaken(() => openIdentity(folder.path), IdentityError);
      },
    });
  }
});

test.serial('the memory of an agent', async (t) => {
  await using folder = await temporaryFolder('fuzz-memory');
  const file = path.join(folder.path, 'memory.json');
  const options = { path: file, clock: systemClock, log: silentLog };
  const memory = await FileMemory.open(options);
  memory.set('a-uid', { reboots: 2n, restarts: { containerId: 'c', count: 3 } });
  await memory.close();
  const sample = new Uint8Array(readFileSync(file));
  await fuzz(t, {
    target: 'memory',
    input: mutated([sample]),
    runs: 500,
    check: async (input) => {
      await writeFile(file, input);
      await refusedOrTaken(() => FileMemory.open(options));
      await rm(`${file}.broken`, { force: true });
    },
  });
});
