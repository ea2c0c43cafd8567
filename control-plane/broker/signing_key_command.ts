import { resolve } from 'node:path';
import process from 'node:process';
import { setTimeout } from 'node:timers/promises';
import { checkOwner, dataOption, operatorCommand, runOperatorCommand } from '../operator_command.ts';
import { isReplacementWished, readKeys, signingKeyFile, wishReplacement } from './signing_key_file.ts';

/** How long a control plane that runs may take. */
const patienceMs = 10_000;

/** `baykeeper-control-plane signing-key …`: looks at the keys that messages to agents are signed with, and replaces them. Resolves with the exit status. */
export async function runSigningKeyCommand(argv: readonly string[]): Promise<number> {
  const program = operatorCommand('signing-key', 'The keys that this control plane signs its messages to agents with.');
  program
    .command('show')
    .description('print the ids of the keys, and from when on each signs')
    .addOption(dataOption())
    .action(async (options: { data: string }) => print(resolve(options.data)));
  program
    .command('replace')
    .description(
      'replace all of them by a new one at once, as one may be in wrong hands. Agents ask the API for it, and believe the old ones no more from then on',
    )
    .addOption(dataOption())
    .action(async (options: { data: string }) => {
      const dataDir = resolve(options.data);
      await checkOwner(dataDir);
      if ((await readKeys(signingKeyFile(dataDir))).length === 0)
        throw new Error(`there are no keys in ${dataDir} yet`);
      await wishReplacement(dataDir);
      for (const endMs = Date.now() + patienceMs; Date.now() < endMs; await setTimeout(100)) {
        if (!(await isReplacementWished(dataDir))) return print(dataDir);
      }
      process.stdout.write('No control plane runs here: the keys are replaced when it starts.\n');
    });
  return await runOperatorCommand(program, argv);
}

async function print(dataDir: string): Promise<void> {
  for (const { id, signsFromMs } of await readKeys(signingKeyFile(dataDir))) {
    const what = signsFromMs > Date.now() ? 'will sign' : 'signs';
    process.stdout.write(`${id}  ${what} from ${new Date(signsFromMs).toISOString()} on\n`);
  }
}
