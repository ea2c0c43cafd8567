import { chmod, chown, mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { FakeClock } from '../test/harness/fake_clock.ts';
import { until } from '../test/harness/until.ts';
import { silentLog } from './log.ts';
import { PolicyError, summary } from './policy.ts';
import { loadPolicy, PolicyFile } from './policy_file.ts';

async function bed(t: ExecutionContext) {
  const folder = await mkdtemp(join(tmpdir(), 'bk-policy-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const dataDir = join(folder, 'data');
  await mkdir(dataDir, { mode: 0o700 });
  const path = join(folder, 'agent.yaml');
  const clock = new FakeClock();
  const open = async (asked: string | undefined = undefined) => {
    const file = await PolicyFile.open({ path: asked, dataDir, clock, log: silentLog, systemPath: path });
    t.teardown(() => file.close());
    return file;
  };
  /** Time passes until it has been looked. */
  const seen = (what: string, condition: () => boolean) =>
    until(what, async () => {
      await clock.advance(2_000);
      return condition();
    });
  const write = (text: string, mode = 0o644) => writeFile(path, text, { mode });
  return { folder, dataDir, path, open, write, seen };
}

test('without a file everything is allowed; one that comes holds', async (t) => {
  const { open, write, seen } = await bed(t);
  const file = await open();
  t.is(file.current.source, '');
  let told = 0;
  file.subscribe(() => {
    told += 1;
  });
  await write('default: allow\nexec: forbid\n');
  await seen('it was read', () => file.current.rules.exec === 'forbid');
  t.is(told, 1);
});

test('the one in /etc wins over the one in the data folder', async (t) => {
  const { dataDir, path, open, write } = await bed(t);
  await writeFile(join(dataDir, 'agent.yaml'), 'default: forbid\n');
  t.is((await open()).current.source, join(dataDir, 'agent.yaml'));
  await write('default: allow\n');
  t.is((await open()).current.source, path);
});

test('a file that cannot be read ends the start, and a change to one changes nothing but is said', async (t) => {
  const { path, open, write, seen } = await bed(t);
  await t.throwsAsync(open(path), { instanceOf: PolicyError, message: /agent\.yaml: ENOENT/ });
  await write('default: forbid\nimages: [a:1]\n');
  await t.throwsAsync(open(), { instanceOf: PolicyError, message: /agent\.yaml: images\[0\]: expected a registry/ });
  await write('default: forbid\n');
  const file = await open();
  await write('default: allow\nexec: forbid\nexec: allow\n');
  await seen('that is said', () => file.problem !== undefined);
  t.regex(file.problem ?? '', /agent\.yaml: line 3, column 1: .*unique/i);
  t.is(file.current.rules.privileged, 'forbid');
  await rename(path, `${path}.away`);
  await seen('that it is gone is said', () => file.problem?.endsWith('it is gone') === true);
  t.is(file.current.rules.privileged, 'forbid');
  await rm(`${path}.away`);
  await write('default: allow\n');
  await seen('it is good again', () => file.problem === undefined);
  t.is(file.current.rules.privileged, 'allow');
});

test('one in the data folder takes the place of one in /etc at a start only, and a link that leads nowhere is no missing file', async (t) => {
  const { folder, dataDir, path, open, write, seen } = await bed(t);
  await writeFile(join(dataDir, 'agent.yaml'), 'default: allow\n');
  await write('default: forbid\n');
  const file = await open();
  await rm(path);
  await seen('that it is gone is said', () => file.problem?.endsWith('it is gone') === true);
  t.is(file.current.rules.exec, 'forbid');
  t.is((await open()).current.source, join(dataDir, 'agent.yaml'));
  // As on a machine where what it leads to is not mounted yet.
  await symlink(join(folder, 'away', 'agent.yaml'), path);
  await t.throwsAsync(open(), { instanceOf: PolicyError, message: /agent\.yaml: ENOENT/ });
});

test('a file that could not be read is read once it can be, also when it is as it was', async (t) => {
  const { folder, open, write, seen } = await bed(t);
  await write('default: forbid\n');
  const file = await open();
  await chmod(folder, 0o777);
  await write('default: allow\n');
  await seen('that is said', () => file.problem?.includes('can be written by others') === true);
  await chmod(folder, 0o700);
  await seen('it holds', () => file.current.rules.exec === 'allow');
  t.is(file.problem, undefined);
});

test('a file, or its folder, that others can write is refused', async (t) => {
  const { folder, path, write } = await bed(t);
  await write('default: allow\n');
  await chmod(path, 0o646);
  await t.throwsAsync(loadPolicy(path), { message: /the file can be written by others.*chmod go-w/ });
  await chmod(path, 0o664);
  await t.throwsAsync(loadPolicy(path), { message: /the file can be written by others/ });
  await chmod(path, 0o444);
  t.is((await loadPolicy(path)).source, path);
  await chmod(folder, 0o777);
  await t.throwsAsync(loadPolicy(path), { message: /the folder .* can be written by others/ });
  await chmod(folder, 0o1777);
  await loadPolicy(path);
  // A link is as good as what it leads to.
  await chmod(folder, 0o700);
  const open = join(folder, 'open');
  await mkdir(open);
  await chmod(open, 0o777);
  await writeFile(join(open, 'agent.yaml'), 'default: allow\n', { mode: 0o644 });
  await symlink(join(open, 'agent.yaml'), join(folder, 'link.yaml'));
  await t.throwsAsync(loadPolicy(join(folder, 'link.yaml')), { message: /the folder .*open can be written by others/ });
  await symlink(path, join(open, 'link.yaml'));
  await t.throwsAsync(loadPolicy(join(open, 'link.yaml')), { message: /the folder .*open can be written by others/ });
  if (process.getuid?.() !== 0) return;
  await chown(path, 65_534, 65_534);
  await t.throwsAsync(loadPolicy(path), { message: /belongs to user 65534: expected root/ });
});

test('what is no YAML of ours is refused with its place', async (t) => {
  const { folder, path, write } = await bed(t);
  const cases: [string, RegExp][] = [
    ['', /expected a mapping/],
    ['default: [allow', /line 1, column \d+: /],
    ['a: &a [x]\ndefault: *a\n', /[Aa]lias|no such rule/],
    ['default: !!js/function x\n', /tag/i],
    ['default: allow\n---\ndefault: forbid\n', /multiple documents/i],
  ];
  for (const [text, message] of cases) {
    await write(text);
    await t.throwsAsync(loadPolicy(path), { instanceOf: PolicyError, message }, text);
  }
  await t.throwsAsync(loadPolicy(folder), { message: /expected a file|EISDIR/ });
  await write(`default: allow # ${'x'.repeat(300_000)}\n`);
  await t.throwsAsync(loadPolicy(path), { message: /expected at most 262144 bytes/ });
  await write('# ours\ndefault: forbid\nhostMounts:\n  - /srv/data\n  - {path: /var/log, readOnly: true}\n');
  t.regex(summary(await loadPolicy(path)), /hostMounts: \/srv\/data \/var\/log \(read-only\)/);
});
