import type { JsonObject } from '@bufbuild/protobuf';
import test from 'ava';
import { type Kubernetes, startKubernetes } from '../../../test/harness/kubernetes/cluster.ts';
import { until } from '../../../test/harness/until.ts';
import { type PodExecOptions, type PodLogOptions, resourceTypes } from '../cluster_driver.ts';
import { ClusterError } from '../cluster_error.ts';
import { collect, textOf } from '../contract.ts';
import type { EngineExec, OutputChunk } from '../driver.ts';
import { KubernetesDriver } from './driver.ts';

let cluster: Kubernetes;
let driver: KubernetesDriver;
/** A pod that just runs. */
let lasting: string;
const namespace = 'default';
const { Pod } = resourceTypes;

test.before(async () => {
  cluster = await startKubernetes({ nodes: ['node-1'] });
  driver = new KubernetesDriver({ kubeconfig: cluster.kubeconfig, context: '' });
  lasting = await start({ c: forever });
});
test.after.always(async () => {
  driver?.close();
  await cluster?.[Symbol.asyncDispose]();
});

interface PodState {
  readonly metadata: { readonly name: string; readonly uid: string; readonly resourceVersion: string };
  readonly status?: {
    readonly phase?: string;
    readonly containerStatuses?: readonly {
      readonly name: string;
      readonly restartCount: number;
      readonly state: object;
    }[];
  };
  readonly [field: string]: unknown;
}

let count = 0;
/** A pod whose containers run these scripts; waited for until all have begun, or as `ready` says. */
async function start(
  scripts: Readonly<Record<string, string>>,
  {
    metadata = {},
    ready,
    spec = {},
  }: { metadata?: JsonObject; spec?: JsonObject; ready?: (pod: PodState) => boolean } = {},
): Promise<string> {
  count += 1;
  const name = `pod-${count}`;
  const containers = Object.entries(scripts).map(([container, script]) => ({
    name: container,
    image: 'busybox:test',
    command: ['/bin/sh', '-c', script],
  }));
  await driver.create(Pod, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace, ...metadata },
    spec: { containers, terminationGracePeriodSeconds: 0, restartPolicy: 'Never', ...spec },
  });
  const ref = { type: Pod, namespace, name };
  const began = ({ status }: PodState) =>
    status?.containerStatuses?.length === containers.length &&
    status.containerStatuses.every(({ state }) => !('waiting' in state));
  await until('the pod runs', async () => {
    const pod = await driver.get<PodState>(ref);
    return pod && (ready ?? began)(pod);
  });
  return name;
}

const forever = 'trap exit TERM; while :; do sleep 0.1; done';
const ended = ({ status }: PodState) => status?.phase === 'Succeeded' || status?.phase === 'Failed';

async function logs(name: string, options: Partial<PodLogOptions> = {}, container = ''): Promise<string> {
  const all = {
    follow: false,
    previous: false,
    tailLines: undefined,
    sinceMs: undefined,
    timestamps: false,
    ...options,
  };
  return textOf(await collect((await driver.logs({ namespace, name, container }, all)).chunks));
}

const exec = (name: string, command: readonly string[], options: Partial<PodExecOptions> = {}, container = '') =>
  driver.exec({ namespace, name, container }, { command, tty: false, stdin: false, size: undefined, ...options });

/** All that it says, and how it ends. */
async function outcome(session: EngineExec): Promise<{ stdout: string; stderr: string; code: number }> {
  const chunks = await collect(session.chunks);
  const of = (stream: OutputChunk['stream']) => textOf(chunks.filter((one) => one.stream === stream));
  return { stdout: of('stdout'), stderr: of('stderr'), code: await session.exitCode() };
}

test.serial('a log is read: all of it, its end, since a time, with times, while it goes on', async (t) => {
  const script = 'echo one; sleep 1; echo two >&2; sleep 2; echo three; sleep 1; echo four';
  const name = await start({ main: script });
  t.is(await logs(name, { follow: true }), 'one\ntwo\nthree\nfour\n');
  t.is(await logs(name), 'one\ntwo\nthree\nfour\n');
  t.is(await logs(name, { tailLines: 2 }), 'three\nfour\n');
  t.is(await logs(name, { tailLines: 0 }), '');
  const lines = (await logs(name, { timestamps: true })).trim().split('\n');
  const times = lines.map((line) => Date.parse(line.split(' ')[0] ?? ''));
  t.deepEqual(times.map(Number.isFinite), [true, true, true, true]);
  t.is(await logs(name, { sinceMs: times[2] }), 'three\nfour\n');
  t.is(await logs(name, { sinceMs: Date.now() + 60_000 }), '');
});

test.serial('the container is the one that is meant', async (t) => {
  const scripts = { first: `echo first; ${forever}`, second: `echo second; ${forever}` };
  const plain = await start(scripts);
  t.is(await logs(plain), 'first\n');
  t.is(await logs(plain, {}, 'second'), 'second\n');
  t.is(
    (
      await outcome(await exec(plain, ['/bin/sh', '-c', 'tr "\\0" " " < /proc/1/cmdline'], {}, 'second'))
    ).stdout.includes('echo second'),
    true,
  );
  const chosen = await start(scripts, {
    metadata: { annotations: { 'kubectl.kubernetes.io/default-container': 'second' } },
  });
  t.is(await logs(chosen), 'second\n');
  for (const call of [logs(plain, {}, 'third'), exec(plain, ['true'], {}, 'third')]) {
    const error = await t.throwsAsync(call, { instanceOf: ClusterError });
    t.like(error, { kind: 'invalid', message: `the pod ${plain} has no container "third": it has first, second` });
  }
});

test.serial('the log of the run before', async (t) => {
  const script = 'if [ -e /data/ran ]; then echo again; sleep 1000; fi; touch /data/ran; echo before; exit 1';
  const volume = { name: 'data', emptyDir: {} };
  const restarted = ({ status }: PodState) =>
    status?.containerStatuses?.[0]?.restartCount === 1 && 'running' in status.containerStatuses[0].state;
  const name = await start(
    {},
    {
      ready: restarted,
      spec: {
        restartPolicy: 'OnFailure',
        volumes: [volume],
        containers: [
          {
            name: 'c',
            image: 'busybox:test',
            command: ['/bin/sh', '-c', script],
            volumeMounts: [{ name: 'data', mountPath: '/data' }],
          },
        ],
      },
    },
  );
  t.is(await logs(name, { previous: true }), 'before\n');
  await until('it has said so', async () => (await logs(name)) === 'again\n');
});

test.serial('what cannot be read is said', async (t) => {
  const fails = async (kind: ClusterError['kind'], call: Promise<unknown>) =>
    t.is((await t.throwsAsync(call, { instanceOf: ClusterError }))?.kind, kind);
  await fails('not-found', logs('none'));
  await fails('not-found', exec('none', ['true']));
  const done = await start({ c: 'exit 0' }, { ready: ended });
  await fails('not-running', exec(done, ['true']));
  await fails('not-running', logs(done, { previous: true }));
  const waiting = await start(
    {},
    {
      ready: ({ status }) => status?.phase === 'Pending',
      spec: { nodeName: 'node-1', containers: [{ name: 'c', image: 'none.invalid/none:1', imagePullPolicy: 'Never' }] },
    },
  );
  await until('it is known why', () =>
    logs(waiting).then(
      () => false,
      (error: ClusterError) => /waiting to start/.test(error.message),
    ),
  );
  await fails('not-running', logs(waiting));
  await fails('not-running', exec(waiting, ['true']));
  await fails('invalid', exec(done, []));
});

test.serial('a command says what it says, apart, and how it ends', async (t) => {
  const name = lasting;
  t.deepEqual(await outcome(await exec(name, ['/bin/sh', '-c', 'echo out; echo err >&2; exit 7'])), {
    stdout: 'out\n',
    stderr: 'err\n',
    code: 7,
  });
  t.deepEqual(await outcome(await exec(name, ['/bin/echo', 'a b', '$HOME', '&c=d'])), {
    stdout: 'a b $HOME &c=d\n',
    stderr: '',
    code: 0,
  });
  t.not((await outcome(await exec(name, ['/no/such/program']))).code, 0);
});

test.serial('input reaches a command, and so does its end', async (t) => {
  const name = lasting;
  const session = await exec(name, ['/bin/sh', '-c', 'cat; echo over'], { stdin: true });
  await session.write(Buffer.from('hello '));
  await session.write(Buffer.from('there\n'));
  session.endInput();
  t.deepEqual(await outcome(session), { stdout: 'hello there\nover\n', stderr: '', code: 0 });
});

test.serial('much input and output go through unharmed', async (t) => {
  const name = lasting;
  const data = Buffer.alloc(3_000_000, 'Kubernetes\n');
  const session = await exec(name, ['/bin/cat'], { stdin: true });
  const writing = session.write(data).then(() => session.endInput());
  const { stdout, code } = await outcome(session);
  await writing;
  t.true(Buffer.from(stdout).equals(data));
  t.is(code, 0);
});

test.serial('a terminal has a size, which changes, and one output', async (t) => {
  const name = lasting;
  // A size comes a little after the terminal.
  const script = `
    until [ -n "$(stty size 2>/dev/null)" ]; do sleep 0.1; done
    stty size; echo err >&2; read line
    until [ "$(stty size)" = "11 77" ]; do sleep 0.1; done
    echo "got $line"; exit 3`;
  const session = await exec(name, ['/bin/sh', '-c', script], {
    tty: true,
    stdin: true,
    size: { columns: 100, rows: 40 },
  });
  const chunks: OutputChunk[] = [];
  const reading = (async () => {
    for await (const chunk of session.chunks) chunks.push(chunk);
  })();
  await until('it has begun', () => textOf(chunks).includes('err'));
  t.regex(textOf(chunks), /40 100\r\nerr/);
  await session.resize({ columns: 77, rows: 11 });
  await session.write(Buffer.from('hi\n'));
  await reading;
  t.regex(textOf(chunks), /got hi/);
  t.true(chunks.every(({ stream }) => stream === 'stdout'));
  t.is(await session.exitCode(), 3);
});

test.serial('the end of the input ends what reads from a terminal', async (t) => {
  const name = lasting;
  const session = await exec(name, ['/bin/cat'], { tty: true, stdin: true });
  session.endInput();
  t.is((await outcome(session)).code, 0);
});

test.serial('nobody reads further than is consumed: neither a log nor a command', async (t) => {
  const name = await start({ c: `yes 0123456789; ${forever}` });
  const openings = [
    () =>
      driver.logs(
        { namespace, name, container: '' },
        { follow: true, previous: false, tailLines: undefined, sinceMs: undefined, timestamps: false },
      ),
    () => exec(name, ['/bin/sh', '-c', 'yes 0123456789']),
  ];
  for (const open of openings) {
    const output = await open();
    const chunks = output.chunks[Symbol.asyncIterator]();
    await chunks.next();
    const before = process.memoryUsage();
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    const after = process.memoryUsage();
    t.true(after.rss - before.rss < 30_000_000, `grew by ${after.rss - before.rss}`);
    // It goes on where it was.
    for (let bytes = 0; bytes < 5_000_000; ) {
      const { value, done } = await chunks.next();
      if (done) return t.fail('it ended');
      t.regex(Buffer.from(value.data.subarray(0, 30)).toString(), /^[0-9\n]+$/);
      bytes += value.data.byteLength;
    }
    output.close();
    output.close();
    // What was on its way may still come, and then it ends.
    while (!(await chunks.next()).done);
  }
  await driver.delete({ type: Pod, namespace, name }, { gracePeriodSeconds: 0 });
});

test.serial('who closes a terminal ends what ran in it', async (t) => {
  const name = lasting;
  const session = await exec(name, ['/bin/sleep', '4321'], { tty: true, stdin: true });
  const runs = async () => (await outcome(await exec(name, ['/bin/ps']))).stdout.includes('sleep 4321');
  await until('it runs', runs);
  session.close();
  await until('it is gone', async () => !(await runs()));
  t.pass();
});

test.serial('what is open ends with the driver', async (t) => {
  const name = lasting;
  const own = new KubernetesDriver({ kubeconfig: cluster.kubeconfig, context: '' });
  const pod = { namespace, name, container: '' };
  const options = { follow: true, previous: false, tailLines: undefined, sinceMs: undefined, timestamps: false };
  const log = collect((await own.logs(pod, options)).chunks);
  const command = collect(
    (await own.exec(pod, { command: ['/bin/sleep', '1000'], tty: false, stdin: true, size: undefined })).chunks,
  );
  own.close();
  await Promise.allSettled([log, command]);
  t.pass();
});
