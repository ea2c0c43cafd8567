import { stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { Command, Option } from 'commander';

/** `baykeeper-control-plane NAME …`, for whoever has the machine of a control plane and its data folder: no server has to run. */
export function operatorCommand(name: string, description: string): Command {
  return new Command(`baykeeper-control-plane ${name}`)
    .description(description)
    .showHelpAfterError('(--help says what can be set)')
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
}

/** Where everything is kept. */
export function dataOption(): Option {
  const home = process.env.BAYKEEPER_HOME || join(homedir(), '.baykeeper');
  return new Option('--data <dir>', 'folder of everything that is kept').env('BAYKEEPER_DATA').default(home);
}

/** Rejects when the folder is another user's: what root writes there, the control plane could not read. */
export async function checkOwner(dataDir: string): Promise<void> {
  const owner = await stat(dataDir).catch(() => undefined);
  if (!owner || owner.uid === process.getuid?.()) return;
  throw new Error(
    `${dataDir} is of the user with id ${owner.uid}, who runs the control plane: do this as that user (sudo -u '#${owner.uid}' …)`,
  );
}

/** Resolves with the exit status. */
export async function runOperatorCommand(program: Command, argv: readonly string[]): Promise<number> {
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return 0;
  } catch (error) {
    process.stderr.write(`Error: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
}
