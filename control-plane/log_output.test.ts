import path from 'node:path';
import test from 'ava';
import { run } from '../test/harness/program.ts';

test('a full disk under the log ends nobody, and holds nobody up', async (t) => {
  const program = `
    import { pino } from 'pino';
    import { openLogOutput } from ${JSON.stringify(path.join(import.meta.dirname, 'log_output.ts'))};
    const log = pino({}, openLogOutput(2));
    for (let i = 0; i < 100; i += 1) log.info({ i }, 'to nowhere');
    await new Promise((resolve) => setImmediate(resolve));
    console.log('still here');`;
  const command = [
    'sh',
    '-c',
    'exec "$0" --input-type=module --eval "$1" 2>/dev/full',
    process.execPath,
    program,
  ] as const;
  const { code, stdout } = await run(command, { cwd: import.meta.dirname, timeoutMs: 20_000 });
  t.is(stdout, 'still here\n');
  t.is(code, 0);
});
