#!/usr/bin/env node
import { flushCompileCache } from 'node:module';
import process from 'node:process';
import { readConfig } from './config.ts';
import { relaunchTuned } from './tuned_launch.ts';

if (process.argv[2] === 'ca') {
  const { runCaCommand } = await import('./tls/ca_command.ts');
  process.exit(await runCaCommand(process.argv.slice(3)));
}
if (process.argv[2] === 'signing-key') {
  const { runSigningKeyCommand } = await import('./broker/signing_key_command.ts');
  process.exit(await runSigningKeyCommand(process.argv.slice(3)));
}
const config = readConfig(process.argv.slice(2));
relaunchTuned(config.dataDir);
try {
  // Not before: a process that begins again has no use for it.
  const { startControlPlane } = await import('./control_plane.ts');
  const { url, listensOn, stop } = await startControlPlane(config);
  let stopping = false;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      // The second time it is meant.
      if (stopping) process.exit(130);
      stopping = true;
      stop().then(
        () => process.exit(0),
        (error: unknown) => {
          process.stderr.write(`Error: the control plane did not end cleanly: ${messageOf(error)}\n`);
          process.exit(1);
        },
      );
    });
  }
  process.stdout.write(`ready ${url}${listensOn === undefined ? '' : ` (listening on ${listensOn})`}\n`);
  // Now, and not at the end: a crash would lose it.
  flushCompileCache();
} catch (error) {
  process.stderr.write(`Error: ${messageOf(error)}\n`);
  process.exit(1);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
