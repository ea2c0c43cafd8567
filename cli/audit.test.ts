import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createClient } from '@connectrpc/connect';
import test from 'ava';
import { nobody } from '../control-plane/audit/port.ts';
import { BayService } from '../proto/gen/baykeeper/v1/bay_service_pb.js';
import { startApi } from '../test/harness/api_fixture.ts';
import { until } from '../test/harness/until.ts';
import { isHostile } from './output/escape.ts';
import { bayctl } from './run_fixture.ts';

test('audit shows who did what, filters it, and goes on with what comes', async (t) => {
  await using api = await startApi();
  const make = async (token: string, name: string) =>
    createClient(BayService, api.transport({ token })).createBay({ bay: { metadata: { name } } });
  const audit = (argv: readonly string[], options = {}) =>
    bayctl(undefined, ['audit', '--server', api.server.url, '--token', 'admin-token', ...argv], options);
  await make('red-token', 'shop');
  await make('blue-token', 'depot');
  await t.throwsAsync(make('red-reader-token', 'attic'));
  await until('all is recorded', () => api.audit.head.sequence === 3);

  const { stdout, stderr, status } = await audit([]);
  t.is(status, 0, stderr);
  const rows = stdout
    .trimEnd()
    .split('\n')
    .map((row) => row.split(/\s{2,}/).toSpliced(1, 1));
  t.deepEqual(rows, [
    ['#', 'WHO', 'PROJECT', 'CALL', 'OBJECT', 'OUTCOME'],
    ['1', 'rose', 'red', 'CreateBay', 'bay/shop @1', 'ok'],
    ['2', 'bert', 'blue', 'CreateBay', 'bay/depot @2', 'ok'],
    ['3', 'rita', 'red', 'CreateBay', 'bay/attic', 'permission_denied'],
  ]);
  const numbers = async (...argv: string[]) =>
    (await audit([...argv, '--no-headers'])).stdout
      .split('\n')
      .map((row) => row.split(/\s/, 1)[0])
      .join('');
  t.is(await numbers('--project', 'red'), '13');
  t.is(await numbers('--kind', 'refused'), '3');
  t.is(await numbers('--subject', 'bert'), '2');
  t.is(await numbers('--object', 'shop'), '1');
  t.is(await numbers('--method', 'delete'), '');
  t.is(await numbers('--limit', '1'), '3');
  t.is(await numbers('--since', '1h'), '123');
  t.is(await numbers('--since-time', '2999-01-01T00:00:00Z'), '');
  t.regex((await audit(['--effects'])).stdout, /EFFECT\n.* NONE\n/);
  const { items } = JSON.parse((await audit(['-o', 'json'])).stdout);
  t.like(items[0], { sequence: '1', subject: 'rose', role: 'member', code: 'ok', peer: '127.0.0.1' });
  t.is((await audit(['--kind', 'other'])).status, 2);
  t.is((await bayctl(undefined, ['audit', '--server', api.server.url, '--token', 'red-token'])).status, 3);

  const abort = new AbortController();
  let seen = '';
  const following = audit(['-f', '-o', 'json', '--kind', 'change'], {
    signal: abort.signal,
    onStdout: (text: string) => {
      seen = text;
    },
  });
  await until('the newest are shown', () => seen.split('\n').length > 2);
  await make('red-token', 'store');
  await until('what comes is shown', () => seen.includes('"store"'));
  abort.abort();
  await following;
  const names = seen
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line).objects[0].name);
  t.deepEqual(names, ['shop', 'depot', 'store']);
});

test('audit shows what was deleted with force', async (t) => {
  await using api = await startApi();
  const bays = createClient(BayService, api.transport());
  await bays.createBay({ bay: { metadata: { name: 'shop' } } });
  await bays.deleteBay({ name: 'shop', force: true });
  const argv = ['audit', '--server', api.server.url, '--token', 'admin-token', '--method', 'Delete'];
  t.regex((await bayctl(undefined, argv)).stdout, / bay\/shop @\d+: with force +ok\n/);
});

test('audit verify says what is wrong, and holds the log against a record that was noted', async (t) => {
  await using api = await startApi();
  const bays = createClient(BayService, api.transport());
  for (const name of ['a', 'b', 'c']) await bays.createBay({ bay: { metadata: { name } } });
  const verify = (...argv: string[]) =>
    bayctl(undefined, ['audit', 'verify', '--server', api.server.url, '--token', 'admin-token', ...argv]);
  const good = await verify();
  t.is(good.status, 0, good.stderr);
  const noted = /^intact: 3 records in 1 files\nnewest: (3:[0-9a-f]{64})\n$/.exec(good.stdout)?.[1] ?? '';
  t.is((await verify('--expect', noted)).status, 0);
  t.is((await verify('--expect', `2:${noted.slice(2)}`)).status, 1);
  t.is((await verify('--expect', 'x')).status, 2);
  const [file = ''] = (await readdir(api.auditFolder)).filter((name) => name.endsWith('.jsonl'));
  const path = join(api.auditFolder, file);
  await writeFile(path, (await readFile(path, 'utf8')).replace('rose', 'bert'));
  const bad = await verify();
  t.is(bad.status, 1);
  t.regex(bad.stdout, /^000000000001\.jsonl:2: it does not follow record 1 as that is now: one of them was changed\n/);
  t.regex(bad.stderr, /the audit log is not as it was written/);
});

test('what a stranger has written steers no terminal, in whichever format', async (t) => {
  await using api = await startApi();
  const csi = '\x1b[2J\x9b31m\u202e';
  await api.audit.append({ ...nobody, kind: 'change', method: 'a/B', code: 'ok', subject: `eve${csi}`, message: csi });
  for (const argv of [
    [],
    ['-f'],
    ['-o', 'json'],
    ['-f', '-o', 'json'],
    ['-o', 'yaml'],
    ['-f', '-o', 'yaml'],
    ['-o', 'jsonpath={.items[*].subject}'],
    ['-f', '-o', 'jsonpath={.subject}'],
  ]) {
    const abort = new AbortController();
    const { stdout } = await bayctl(
      undefined,
      ['audit', '--server', api.server.url, '--token', 'admin-token', ...argv],
      { columns: 200, signal: abort.signal, onStdout: (text) => text.includes('eve') && abort.abort() },
    );
    t.true(stdout.includes('eve'), argv.join(' '));
    t.false(stdout.split('\n').some(isHostile), argv.join(' '));
  }
});
