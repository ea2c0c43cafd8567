import { chown, readdir } from 'node:fs/promises';
import test from 'ava';
import { ownProgram, run } from '../../test/harness/program.ts';
import { temporaryFolder } from '../../test/harness/temporary_folder.ts';
import { openAuthority, readAuthority } from './authority.ts';

const ca = (command: string, dataDir: string) =>
  run(ownProgram('control-plane/main.ts', 'ca', command, '--data', dataDir));

test('what has no authority is not the folder that was meant, and nothing is made there', async (t) => {
  await using folder = await temporaryFolder('ca');
  for (const command of ['show', 'rotate']) {
    const { code, stderr } = await ca(command, folder.path);
    t.is(code, 1);
    t.regex(stderr, /^Error: there is no certificate authority in .* Is that the folder of the control plane\?\n$/);
  }
  t.deepEqual(await readdir(folder.path), []);
});

// Nobody else can give a folder to another user; `npm test` and CI are root.
const asRoot = process.getuid?.() === 0 ? test : test.skip;
asRoot('root does not write what the user of the control plane could not read', async (t) => {
  await using folder = await temporaryFolder('ca');
  await openAuthority(folder.path, Date.now());
  const before = await readAuthority(folder.path);
  await chown(folder.path, 65_534, 65_534);
  const { code, stderr } = await ca('rotate', folder.path);
  t.is(code, 1);
  t.regex(stderr, /is of the user with id 65534, who runs the control plane: do this as that user/);
  t.deepEqual(await readAuthority(folder.path), before);
});
