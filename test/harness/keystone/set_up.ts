import process from 'node:process';
import { SetupError, step } from '../../../deploy/quickstart/process.mjs';
import { runMain } from '../../../deploy/quickstart/setup.mjs';
import { hasKeystoneTemplate, keystoneTemplate } from './template.ts';

/** Makes the data that tests start Keystone with: `node test/harness/keystone/set_up.ts`. Does nothing, and says nothing, when they are there. */

const say = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

await runMain(async () => {
  if (await hasKeystoneTemplate()) return 0;
  await step(say, "Preparing Keystone's database (once)", async () => {
    try {
      await keystoneTemplate(say);
    } catch (error) {
      throw new SetupError(`Keystone cannot be prepared: ${error instanceof Error ? error.message : String(error)}`);
    }
  });
  return 0;
});
