import { createHash } from 'node:crypto';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { pino } from 'pino';
import { until } from '../../test/harness/until.ts';
import { parseTokenFile, TokenFile, TokenFileError } from './token_file.ts';

const hashOf = (token: string): string => createHash('sha256').update(token).digest('hex');
const entry = (token: string, more: object = {}) => ({
  sha256: hashOf(token),
  subject: 'ci',
  project: 'red',
  role: 'member',
  ...more,
});

test('a caller is found by the hash of the token, until it expires', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'token-file-'));
  t.teardown(() => rm(dir, { recursive: true }));
  const file = join(dir, 'tokens.yaml');
  const expires = '2027-01-31T00:00:00Z';
  await writeFile(
    file,
    JSON.stringify([entry('one'), entry('two', { role: 'reader', expires, description: 'of a pipe' })]),
  );
  const clock = { nowMs: Date.parse('2027-01-01'), now: () => clock.nowMs };
  const changes: string[] = [];
  using tokens = await TokenFile.open({
    file,
    clock,
    log: pino({ level: 'silent' }),
    intervalMs: 10,
    onChange: (code, message) => void changes.push(`${code} ${message}`),
  });
  t.deepEqual(tokens.authenticate({ token: 'one' }), { subject: 'ci', project: 'red', role: 'member' });
  t.like(tokens.authenticate({ token: 'two' }), { role: 'reader', expireTimeMs: Date.parse(expires) });
  for (const token of ['', 'three', hashOf('one')]) t.is(tokens.authenticate({ token }), undefined);
  clock.nowMs = Date.parse(expires);
  t.is(tokens.authenticate({ token: 'two' }), undefined);

  // Replaced, as editors and mounts do it.
  const put = async (text: string) => {
    await writeFile(`${file}.new`, text);
    await rename(`${file}.new`, file);
  };
  await put(`- sha256: ${hashOf('three')}\n  subject: bot\n  project: blue\n  role: admin\n`);
  await until('the new file is read', () => tokens.authenticate({ token: 'three' })?.subject === 'bot');
  t.is(tokens.authenticate({ token: 'one' }), undefined);
  await put('- sha256: broken');
  await put(`[]`);
  await until('the empty file is read', () => tokens.authenticate({ token: 'three' }) === undefined);
  t.deepEqual(changes, [
    'token_file_read new: bot (admin of blue); gone: ci (member of red), ci (reader of red until 2027-01-31T00:00:00.000Z)',
    'token_file_read gone: bot (admin of blue)',
  ]);
});

test('a change that cannot be used leaves what was there, and is logged', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'token-file-'));
  t.teardown(() => rm(dir, { recursive: true }));
  const file = join(dir, 'tokens.yaml');
  await writeFile(file, JSON.stringify([entry('one')]));
  const lines: string[] = [];
  const log = pino({ level: 'error' }, { write: (line: string) => void lines.push(line) });
  using tokens = await TokenFile.open({ file, clock: Date, log, intervalMs: 10 });
  await writeFile(file, JSON.stringify([entry('one', { role: 'king' })]));
  await until('it is logged', () => lines.length > 0);
  t.regex(lines[0] ?? '', /\[0\]\.role: expected admin, member or reader/);
  t.is(tokens.authenticate({ token: 'one' })?.subject, 'ci');
});

test('what is wrong in the file is named, and nothing of it is shown', (t) => {
  const cases: [unknown, RegExp][] = [
    [{}, /expected a list/],
    ['x', /expected a list/],
    [['x'], /\[0\]: expected a mapping/],
    [[entry('a'), { ...entry('b'), token: 'secret' }], /\[1\]: unknown field "token"/],
    [[entry('a', { sha256: 'secret' })], /\[0\]\.sha256: expected the SHA-256/],
    [[entry('a', { subject: 'a b' })], /\[0\]\.subject/],
    [[entry('a', { project: '-' })], /\[0\]\.project/],
    [[entry('a', { role: 'root' })], /\[0\]\.role/],
    [[entry('a', { expires: 'tomorrow' })], /\[0\]\.expires: expected a time/],
    [[entry('a', { expires: 5 })], /\[0\]\.expires: expected a time/],
    [[entry('a'), entry('a')], /\[1\]\.sha256: is in the file twice/],
  ];
  for (const [content, message] of cases) {
    const error = t.throws(() => parseTokenFile(JSON.stringify(content), 'f'), { instanceOf: TokenFileError, message });
    t.false(error?.message.includes('secret'));
  }
  const broken = t.throws(() => parseTokenFile('- sha256: "secret\n- {', 'f'), { instanceOf: TokenFileError });
  t.false(broken?.message.includes('secret'));
  t.throws(() => parseTokenFile(`- &a {sha256: x}\n- *a`, 'f'), { instanceOf: TokenFileError });
  t.is(parseTokenFile('', 'f').size, 0);
});

test('a file that is not there is said at once', async (t) => {
  const open = TokenFile.open({ file: '/nonexistent/tokens', clock: Date, log: pino({ level: 'silent' }) });
  await t.throwsAsync(open, { instanceOf: TokenFileError, message: /cannot read the token file: ENOENT/ });
});
