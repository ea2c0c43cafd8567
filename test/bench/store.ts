/**
 * Measures the store on this machine: `node test/bench/store.ts [--seconds 3]`. Prints a table.
 */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { pino } from 'pino';
import { v7 } from 'uuid';
import type { Store, StoredObject, Write } from '../../control-plane/store/port.ts';
import { openSqliteStore } from '../../control-plane/store/sqlite.ts';

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '3' } } });
const durationMs = Number(values.seconds) * 1000;
const body = randomBytes(500);
const bayUid = v7();
const nodes = Array.from({ length: 50 }, () => v7());
let counter = 0;

const create = (): Write<StoredObject> => {
  counter += 1;
  const uid = v7();
  const nodeUid = nodes[counter % nodes.length] ?? '';
  const name = `web-${randomBytes(4).toString('hex')}-${counter}`;
  const key = { kind: 'Container', project: 'default', bayUid, namespace: 'default', name };
  const createTimeMs = Date.now();
  return {
    reads: [key],
    request: { project: 'default', requestId: uid },
    apply: (view) => {
      if (view.get(key)) throw new Error('taken');
      view.remember(uid, 'f');
      return view.put(
        (revision) => ({
          ...key,
          uid,
          assigneeUid: nodeUid,
          generation: 1,
          deleting: false,
          revision,
          epoch: 0,
          sequence: 0,
          createTimeMs,
          body,
        }),
        nodeUid,
      );
    },
  };
};

const update = (uid: string): Write<StoredObject> => ({
  reads: [{ uid }],
  apply: (view) => {
    const object = view.get({ uid });
    if (!object) throw new Error('gone');
    return view.put((revision) => ({ ...object, revision, sequence: object.sequence + 1 }), '');
  },
});

/** Runs callers one after the other each, and returns calls a second with the median and p99 of their times in ms. */
const load = async (callers: number, call: () => Promise<unknown>): Promise<string[]> => {
  const times: number[] = [];
  const started = performance.now();
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (performance.now() - started < durationMs) {
        const before = performance.now();
        await call();
        times.push(performance.now() - before);
      }
    }),
  );
  const seconds = (performance.now() - started) / 1000;
  times.sort((a, b) => a - b);
  const at = (share: number): string => (times[Math.floor(times.length * share)] ?? 0).toFixed(2);
  return [String(callers), Math.round(times.length / seconds).toLocaleString('en'), at(0.5), at(0.99), at(1 - 1e-9)];
};

const folder = await mkdtemp(join(tmpdir(), 'baykeeper-bench-store-'));
const table = new Table({
  head: ['what', 'callers', 'per s', 'p50 ms', 'p99 ms', 'max ms'],
  style: { head: [], border: [] },
});
const megabytes = (): string => `${Math.round(process.memoryUsage.rss() / 1e6)} MB`;
const openStore = (): Promise<Store> =>
  openSqliteStore({ file: join(folder, 'store.db'), clock: Date, log: pino({ level: 'warn' }) });

try {
  let store = await openStore();
  for (const callers of [1, 32, 1000]) {
    table.push(['create', ...(await load(callers, () => store.write(create())))]);
  }
  const uids: string[] = [];
  const many = Array.from({ length: 20_000 }, create);
  const started = performance.now();
  for (const { uid } of await Promise.all(many.slice(0, 10_000).map((write) => store.write(write)))) uids.push(uid);
  table.push([
    '10,000 creates at once',
    '',
    Math.round(10_000 / ((performance.now() - started) / 1000)).toLocaleString('en'),
  ]);
  const any = (): string => uids[Math.floor(Math.random() * uids.length)] ?? '';
  table.push(['update', ...(await load(32, () => store.write(update(any()))))]);
  table.push(['get', ...(await load(32, () => store.get({ uid: any() })))]);
  table.push([
    'get while 32 write',
    ...(await Promise.all([load(8, () => store.get({ uid: any() })), load(32, () => store.write(create()))]))[0],
  ]);
  const list = { kind: 'Container', project: 'default', bayUid, orderBy: 'name', descending: false } as const;
  for (const limit of [100, 6000])
    table.push([`list of ${limit}`, ...(await load(1, () => store.list({ ...list, limit })))]);
  table.push([
    'list of 100 by time',
    ...(await load(1, () => store.list({ ...list, bayUid: undefined, orderBy: 'createTime', limit: 100 }))),
  ]);
  table.push(['assigned', ...(await load(1, () => store.assigned(nodes[0] ?? '')))]);
  const objects = store.revision;
  let before = performance.now();
  await store.close();
  const closedMs = performance.now() - before;
  before = performance.now();
  store = await openStore();
  const openedMs = performance.now() - before;
  before = performance.now();
  await store.compact(store.revision, Date.now() + 1);
  const compactedMs = performance.now() - before;
  await store.close();
  console.log(`${cpus()[0]?.model}, ${cpus().length} cores, Node ${process.version}`);
  console.log(table.toString());
  console.log(
    `${objects.toLocaleString('en')} revisions: close ${Math.round(closedMs)} ms, open ${Math.round(openedMs)} ms, compact ${Math.round(compactedMs)} ms; ${megabytes()} resident at the end`,
  );
} finally {
  await rm(folder, { recursive: true, force: true });
}
