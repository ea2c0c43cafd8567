import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { bayctl, bayctlEnvironment } from '../harness/bayctl.ts';
import { type ControlPlane, startControlPlane } from '../harness/control_plane.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';

/** What a user can do with a Kubernetes bay whose cluster is away: everything is accepted, and nothing is guessed. */

let controlPlane: ControlPlane;
test.before(async () => {
  controlPlane = await startControlPlane();
});
test.after.always(async () => controlPlane?.[Symbol.asyncDispose]());

const redis = join(import.meta.dirname, 'redis');

test.serial(
  'the redis example is accepted while its bay is offline, and what must ask the cluster says that it cannot',
  async (t) => {
    const run = (...words: string[]) => bayctl(controlPlane, [...words]);
    const ctl = (...words: string[]) => run(...words, '-b', 'edge');
    t.is((await run('bay', 'create', 'edge', '--engine', 'kubernetes')).stdout, 'bay/edge created\n');
    const join_ = await run('bay', 'join-command', 'edge');
    t.regex(join_.stdout, /^\S.* --bay edge .*\n$/);
    t.regex(join_.stderr, /--kubeconfig FILE/);
    t.regex((await run('get', 'bays')).stdout, /^edge +PENDING +0\/0 +KUBERNETES/m);

    for (const words of [['apply', '--dry-run=server'], ['diff']]) {
      const offline = await ctl(...words, '-f', redis);
      t.is(offline.code, 6, offline.stderr);
      t.is(offline.stdout, '');
      t.is(
        offline.stderr.match(
          /redis.* refused: bay "edge" is offline, so its cluster cannot be asked\..*\(UNAVAILABLE\)/g,
        )?.length,
        4,
        offline.stderr,
      );
    }
    t.regex((await ctl('get', 'pods')).stderr, /No pods found/);

    const applied = await ctl('apply', '-f', redis, '--create-namespace');
    t.is(applied.stderr, '');
    t.deepEqual(applied.stdout.trim().split('\n'), [
      'replicationcontroller/redis created',
      'pod/redis-master created',
      'replicationcontroller/redis-sentinel created',
      'service/redis-sentinel created',
    ]);
    t.is((await ctl('apply', '-f', redis, '--create-namespace')).stdout.match(/unchanged/g)?.length, 4);
    t.regex(
      (await ctl('get', 'po')).stdout,
      /^NAME +READY +STATUS +RESTARTS +AGE\nredis-master +0\/2 +Pending +0 +\d+s\n$/,
    );
    t.regex((await ctl('get', 'svc')).stdout, /^redis-sentinel +<pending> +26379\/TCP +<none> +\d+s/m);
    t.regex(
      (await ctl('get', 'rc', '-o', 'wide')).stdout,
      /^redis +1 +0 +0 +\d+s +redis +kubernetes\/redis:v1 +name=redis/m,
    );
    t.regex((await ctl('why', 'pod/redis-master')).stdout, /accepted/);

    t.is((await ctl('scale', 'rc/redis', '--replicas=2')).stdout, 'replicationcontroller/redis scaled\n');
    t.is((await ctl('scale', 'rc/redis', '--replicas=3', '--current-replicas=1')).code, 5);
    t.regex((await ctl('get', 'rc', 'redis')).stdout, /^redis +2 /m);
    t.is((await ctl('wait', '--for=condition=Ready', 'rc/redis', '--timeout', '0')).code, 7);

    // What is printed is what was applied, and what is edited there is what is kept.
    const printed = await ctl('get', 'pod,svc,rc', '-o', 'manifest');
    await using folder = await temporaryFolder('kubernetes-cli');
    const file = join(folder.path, 'printed.yaml');
    await writeFile(file, printed.stdout);
    t.is((await ctl('apply', '-f', file, '--create-namespace')).stdout.match(/unchanged/g)?.length, 4);
    const editor = join(folder.path, 'editor.sh');
    await writeFile(editor, 'sed -i "s/replicas: 2/replicas: 4/" "$1"\n');
    const edited = await bayctl(controlPlane, ['edit', 'rc/redis', '-b', 'edge'], {
      env: { ...bayctlEnvironment(controlPlane), EDITOR: `sh ${editor}` },
    });
    t.is(edited.stdout, 'replicationcontroller/redis edited\n', edited.stderr);
    const shown = JSON.parse((await ctl('get', 'rc', 'redis', '-o', 'json')).stdout);
    t.is(shown.spec.manifest.replicas, 4);
    t.true(shown.spec.createNamespace);

    const logs = await ctl('logs', 'pod/redis-master');
    t.is(logs.code, 6, logs.stderr);
    const exec = await run('exec', '-b', 'edge', 'pod/redis-master', '--', 'true');
    t.is(exec.code, 6, exec.stderr);

    t.is((await ctl('delete', '-f', redis, '--wait=false')).stdout.match(/deletion asked for/g)?.length, 4);
    t.regex((await ctl('get', 'pods')).stdout, /^redis-master +\?\/2 +Unknown/m);
    t.is((await ctl('delete', '-f', redis, '--timeout', '1s')).code, 7);
    t.is((await ctl('delete', '-f', redis, '--force')).stdout.match(/deleted/g)?.length, 4);
    t.regex((await ctl('get', 'all')).stderr, /^No /);
  },
);

test.serial('what cannot be is refused with the file, the document and the path, by us or by the server', async (t) => {
  await using folder = await temporaryFolder('kubernetes-cli');
  await cp(redis, folder.path, { recursive: true });
  const file = join(folder.path, 'redis-master.yaml');
  const text = await readFile(file, 'utf8');
  const apply = async (changed: string) => {
    await writeFile(file, changed);
    const { stdout, stderr, code } = await bayctl(controlPlane, ['apply', '-f', file, '-b', 'edge']);
    t.is(stdout, '');
    t.is(code, 8, stderr);
    return stderr.replace(file, 'FILE');
  };
  t.regex(
    await apply(text.replace('kind: Pod', 'kind: Deployment')),
    /^Error: FILE, document 1: kind: Deployment \(v1\) is not supported/,
  );
  t.regex(
    await apply(text.replace('role: master', 'role: 7')),
    /^Error: FILE, document 1: metadata\.labels\.role: expected a string/,
  );
  t.regex(
    await apply(text.replace('name: redis-master', 'name: Redis_Master')),
    /^Error: FILE, document 1: pod\/Redis_Master refused: metadata\.name: /,
  );
  t.regex(
    await apply(text.replace('role: master', 'role: "a b"')),
    /^Error: FILE, document 1: pod\/redis-master refused: metadata\.labels/,
  );
});
