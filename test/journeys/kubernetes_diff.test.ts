import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { bayctl } from '../harness/bayctl.ts';
import { type KubernetesSite, startKubernetesSite } from '../harness/kubernetes_site.ts';
import { type TemporaryFolder, temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

/** What `apply --dry-run=server` and `diff` say is what the cluster itself says; nothing is made by asking. */

let site: KubernetesSite;
let folder: TemporaryFolder;
test.before(async () => {
  site = await startKubernetesSite({ controlPlane: { args: ['--heartbeat', '1s'] } });
  folder = await temporaryFolder('kubernetes-diff');
});
test.after.always(async () => {
  await site?.[Symbol.asyncDispose]();
  await folder?.[Symbol.asyncDispose]();
});

const run = (...words: string[]) => bayctl(site.controlPlane, [...words, '-b', 'kube']);

/** Writes a manifest, and returns the path of its file. */
async function file(name: string, text: string): Promise<string> {
  const path = join(folder.path, name);
  await writeFile(path, text);
  return path;
}

const service = (name: string, port: number, more = '') =>
  `apiVersion: v1\nkind: Service\nmetadata: {name: ${name}${more}}\nspec: {ports: [{name: web, port: ${port}}], selector: {app: web}}\n`;

/** Resolves when the cluster has what was asked for last. */
const settled = (name: string) =>
  until(`service ${name} is as asked`, async () => {
    const { metadata, status } = await site.json('get', 'service', name);
    return status?.phase === 'SERVICE_PHASE_RUNNING' && status.delivery?.observedGeneration === metadata.generation;
  });

test.serial(
  'a new object differs in everything, one that is as asked in nothing, a changed one in what was changed',
  async (t) => {
    const path = await file('web.yaml', service('web', 80));
    const fresh = await run('diff', '-f', path);
    t.is(fresh.code, 1, fresh.stderr);
    t.regex(fresh.stdout, /^--- live\/service\/default\/web\n\+\+\+ merged\/service\/default\/web\n@@ -0,0 /);
    t.regex(fresh.stdout, /^\+ {6}port: 80$/m);
    t.regex(fresh.stdout, /^\+ {2}type: ClusterIP$/m, 'with the defaults of the cluster');
    const dry = await run('apply', '-f', path, '--dry-run=server');
    t.is(dry.stdout, 'service/web created (dry run)\n', dry.stderr);
    t.regex((await run('get', 'svc')).stderr, /^No services found/);

    t.is((await run('apply', '-f', path)).stdout, 'service/web created\n');
    await settled('web');
    t.deepEqual({ ...(await run('diff', '-f', path)) }, { code: 0, signal: null, stdout: '', stderr: '' });
    t.is((await run('apply', '-f', path, '--dry-run')).stdout, 'service/web unchanged (dry run)\n');

    // What others have added is theirs, and no difference.
    await site.cluster.kubectl(['label', 'service', 'web', 'team=shop']);
    t.is((await run('diff', '-f', path)).stdout, '');

    const changed = await file('web.yaml', service('web', 81, ', labels: {tier: front}'));
    const { stdout, code } = await run('diff', '-f', changed);
    t.is(code, 1);
    t.deepEqual(
      stdout.split('\n').filter((line) => /^[-+] /.test(line)),
      ['+    tier: front', '-      port: 80', '+      port: 81', '-      targetPort: 80', '+      targetPort: 81'],
    );
    t.is((await run('apply', '-f', changed)).stdout, 'service/web configured\n');
    await settled('web');
    t.is((await run('diff', '-f', changed)).code, 0);
    t.is(
      await site.cluster.kubectl([
        'get',
        'service',
        'web',
        '-o',
        'jsonpath={.spec.ports[0].port} {.metadata.labels.team}',
      ]),
      '81 shop',
    );
  },
);

test.serial("what is somebody else's is refused by name, until it is adopted", async (t) => {
  await site.cluster.kubectl(['create', 'service', 'clusterip', 'theirs', '--tcp=80:80']);
  const path = await file('theirs.yaml', service('theirs', 80));
  for (const words of [['diff'], ['apply', '--dry-run=server']]) {
    const { code, stdout, stderr } = await run(...words, '-f', path);
    t.is(code, 5, stderr);
    t.is(stdout, '');
    t.regex(stderr, /theirs\.yaml, document 1: service\/theirs refused: .*kubectl-create owns .*spec\.selector/);
  }
  const adopting = await run('diff', '-f', path, '--adopt');
  t.is(adopting.code, 1, adopting.stderr);
  t.regex(adopting.stdout, /^\+ {4}baykeeper\.io\/uid: /m);
  await run('apply', '-f', path, '--adopt');
  await settled('theirs');
  t.is((await run('diff', '-f', path, '--adopt')).code, 0);
});

test.serial('the verdict of the cluster comes with the file, the document and the path', async (t) => {
  const good = service('good', 80);
  const bad = 'apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: A_B, image: x}]}\n';
  const path = await file('two.yaml', `${good}---\n${bad}`);
  const { code, stdout, stderr } = await run('apply', '-f', path, '--dry-run=server');
  t.is(stdout, 'service/good created (dry run)\n');
  t.regex(stderr, /two\.yaml, document 2: pod\/bad refused: spec\.containers\[0\]\.name: .*Invalid value: "A_B"/);
  t.is(code, 8);

  const elsewhere = ['-f', await file('good.yaml', good), '-n', 'nowhere', '--dry-run=server'];
  const missing = await run('apply', ...elsewhere);
  t.is(missing.code, 5, missing.stderr);
  t.regex(missing.stderr, /namespaces "nowhere" not found.*--create-namespace/);
  t.is((await run('apply', ...elsewhere, '--create-namespace')).stdout, 'service/good created (dry run)\n');
  t.false((await site.cluster.kubectl(['get', 'namespaces', '-o', 'name'])).includes('nowhere'));
});

test.serial('a bay that is offline says so', async (t) => {
  const path = await file('web.yaml', service('web', 90));
  await site.agent.kill9();
  let last = await run('diff', '-f', path);
  await until('the control plane has noticed', async () => {
    last = await run('diff', '-f', path);
    return /service\/web refused: bay "kube" is offline, so its cluster cannot be asked/.test(last.stderr);
  });
  t.is(last.code, 6);
  t.is(last.stdout, '');
});
