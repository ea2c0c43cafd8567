import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'ava';
import { Program, root } from './harness/program.ts';
import { temporaryFolder } from './harness/temporary_folder.ts';
import { until } from './harness/until.ts';

/** A set-up whose one step is this shell script. */
function setUp(folder: string, script: string, whole: boolean): Program {
  const module = (name: string) => JSON.stringify(path.join(root, 'deploy', 'quickstart', name));
  const main = `
    import { run } from ${module('process.mjs')};
    import { runMain } from ${module('setup.mjs')};
    await runMain(async () => {
      await run('sh', ['-c', ${JSON.stringify(script)}], {
        cwd: ${JSON.stringify(folder)}, logFile: 'log', failure: 'it failed', whole: ${whole},
      });
      console.log('the next step');
    });`;
  return new Program({ command: [process.execPath, '--input-type=module', '--eval', main], cwd: folder });
}

test('Ctrl-C in a set-up ends all that it has started before it returns', async (t) => {
  await using folder = await temporaryFolder('setup');
  const file = (name: string) => path.join(folder.path, name);
  await using setup = setUp(
    folder.path,
    `sh -c 'trap "" TERM INT; echo $$ > deaf; while :; do sleep 0.1; done' & echo $$ > pid; wait`,
    false,
  );
  await setup.start();
  await until('it is at work', () => existsSync(file('deaf')) && existsSync(file('pid')));
  await setup.signal('SIGINT');
  t.is((await setup.stop()).code, 130, setup.output);
  t.regex(setup.output, /Stopped before the set-up was done\. Start again/);
  t.notRegex(setup.output, /the next step| {4}at /);
  for (const name of ['pid', 'deaf']) {
    const pid = Number(readFileSync(file(name), 'utf8'));
    await until(`${name} is gone`, () => !existsSync(`/proc/${pid}`));
  }
});

test('what would leave the machine broken half done is let finish, and then the set-up ends', async (t) => {
  await using folder = await temporaryFolder('setup');
  const file = (name: string) => path.join(folder.path, name);
  await using setup = setUp(folder.path, 'touch begun; while [ ! -e go ]; do sleep 0.02; done; touch done', true);
  await setup.start();
  await until('it is at work', () => existsSync(file('begun')));
  const ended = setup.signal('SIGTERM');
  await until('it says that it waits', () => setup.output.includes('Stopping when sh is done'));
  t.false(existsSync(file('done')));
  writeFileSync(file('go'), '');
  await ended;
  t.is((await setup.stop()).code, 143, setup.output);
  t.true(existsSync(file('done')));
  t.notRegex(setup.output, /the next step/);
});
