import { spawn, spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { ChainModel, chunksOf } from '../../test/harness/chain_model.ts';
import { testSigner, testVerifier } from '../../test/harness/signing.ts';
import { until } from '../../test/harness/until.ts';
import { systemClock } from '../clock.ts';
import { LockedError, lockFolder } from '../lock.ts';
import { silentLog } from '../log.ts';
import { takeSnapshot } from './chain.ts';
import { DesiredStore } from './state.ts';
import { decodeState } from './state_file.ts';

const owner = { bayUid: 'bay-1', nodeUid: 'node-1' };

async function folder(t: { teardown(fn: () => Promise<void>): void }): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'agent-durability-'));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

const snapshotOf = (model: ChainModel) => ({
  snapshot: chunksOf(1n, model.snapshot(), 100_000).map((chunk) => testSigner.kept(owner, chunk)),
});

/** A process that changes the state without end, and prints the revision of each change once it is said to be on disk. */
const writer = (path: string, from: number) => `
  import { DesiredStore } from ${JSON.stringify(new URL('./state.ts', import.meta.url).href)};
  import { takeDelta, takeSnapshot } from ${JSON.stringify(new URL('./chain.ts', import.meta.url).href)};
  import { systemClock } from ${JSON.stringify(new URL('../clock.ts', import.meta.url).href)};
  import { silentLog } from ${JSON.stringify(new URL('../log.ts', import.meta.url).href)};
  import { ChainModel, chunksOf } from ${JSON.stringify(new URL('../../test/harness/chain_model.ts', import.meta.url).href)};
  import { testSigner, testVerifier } from ${JSON.stringify(new URL('../../test/harness/signing.ts', import.meta.url).href)};
  import { writeSync } from 'node:fs';
  const owner = ${JSON.stringify(owner)};
  const store = await DesiredStore.open({ ...owner, path: ${JSON.stringify(path)}, verifier: testVerifier(owner), clock: systemClock, log: silentLog });
  if (store.revision < ${from}n) { writeSync(1, 'LOST ' + store.revision + '\\n'); process.exit(1); }
  const model = new ChainModel();
  model.revision = store.revision;
  store.subscribe(() => writeSync(1, store.revision + '\\n'));
  for (let i = 0; ; i += 1) {
    model.put('c-' + (i % 500), 'busybox'.repeat(20));
    const assign = model.newest(1n);
    store.take({ delta: testSigner.kept(owner, assign) }, (head) => takeDelta(head, assign.body.value, 1));
    if (store.isWorn) {
      const snapshot = chunksOf(1n, model.snapshot(), 100_000).map((chunk) => testSigner.kept(owner, chunk));
      store.take({ snapshot }, (head) => takeSnapshot(head, model.snapshot(), 1));
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
`;

test('a process killed in the middle of writing loses nothing that was said to be on disk', async (t) => {
  const path = join(await folder(t), 'state.bin');
  let kept = 0n;
  for (let round = 0; round < 8; round += 1) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', writer(path, Number(kept))], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    const gone = new Promise((resolve) => child.once('close', resolve));
    await until('it writes', () => output.split('\n').length > 5 + round * 3);
    child.kill('SIGKILL');
    await gone;
    t.false(output.includes('LOST'), output.slice(0, 200));
    const told = output.split('\n').slice(0, -1).map(BigInt).at(-1) ?? 0n;
    const { state } = decodeState(owner, await readFile(path), testVerifier(owner));
    t.true(state.revision >= told, `${state.revision} on disk, ${told} was told`);
    kept = state.revision;
  }
});

test('with the disk full the agent goes on with the old state, and takes the new one when there is room', async (t) => {
  const path = await folder(t);
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', path]).status !== 0) {
    t.log('no right to mount here: not tested');
    t.pass();
    return;
  }
  try {
    const store = await DesiredStore.open({
      ...owner,
      path: join(path, 'state.bin'),
      verifier: testVerifier(owner),
      clock: systemClock,
      log: silentLog,
      random: () => 0,
    });
    const model = new ChainModel();
    model.put('a');
    store.take(snapshotOf(model), (head) => takeSnapshot(head, model.snapshot(), 1));
    await store.settled();
    const { revision } = store;
    await writeFile(join(path, 'filler'), Buffer.alloc(200 * 1024));
    for (let i = 0; i < 40; i += 1) model.put(`c-${i}`, 'x'.repeat(5_000));
    store.take(snapshotOf(model), (head) => takeSnapshot(head, model.snapshot(), 1));
    await store.settled();
    t.regex(store.problem, /ENOSPC/);
    t.is(store.revision, revision);
    t.deepEqual([...store.current.objects.keys()], ['a']);
    await rm(join(path, 'filler'));
    await until('it took it', () => store.revision === model.revision);
    t.is(store.problem, '');
    t.is(store.current.objects.size, 41);
    await store.close();
  } finally {
    spawnSync('umount', [path]);
  }
});

test('one agent per folder, and a killed one leaves no lock', async (t) => {
  const path = await folder(t);
  const script = `
    import { lockFolder } from ${JSON.stringify(new URL('../lock.ts', import.meta.url).href)};
    await lockFolder(${JSON.stringify(path)});
    process.stdout.write('locked');
    setInterval(() => {}, 1000);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  await until('locked', () => output === 'locked');
  await t.throwsAsync(lockFolder(path), { instanceOf: LockedError });
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
  const unlock = await lockFolder(path);
  await unlock();
  await (await lockFolder(path))();
});
