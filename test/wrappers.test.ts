import { symlink } from 'node:fs/promises';
import path from 'node:path';
import test from 'ava';
import { root, run } from './harness/program.ts';
import { temporaryFolder } from './harness/temporary_folder.ts';

for (const program of ['cli/bayctl', 'agent/baykeeper-agent', 'control-plane/baykeeper-control-plane']) {
  test(`${program} runs from anywhere, by a link, and with the project's own Node.js`, async (t) => {
    await using folder = await temporaryFolder('wrapper');
    const link = path.join(folder.path, 'linked');
    await symlink(path.join(root, program), link);
    // The machine's own Node.js, which may be older, is all that is on PATH.
    const { code, stdout, stderr } = await run([link, '--help'], { cwd: folder.path, env: { PATH: '/usr/bin:/bin' } });
    t.is(code, 0, stderr);
    t.true(stdout.startsWith(`Usage: ${path.basename(program)} `), stdout);
  });
}
