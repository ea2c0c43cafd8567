import process from 'node:process';
import { homePath, parseArguments } from './home.mjs';
import { endAll } from './processes.mjs';
import { runMain } from './setup.mjs';

const help = `npm stop [-- --home FOLDER]

Stops the control plane and the agent that npm start runs. Containers go on running.
  --home FOLDER   the state folder (default: BAYKEEPER_HOME, or ~/.baykeeper)
`;

await runMain(async () => {
  const options = parseArguments(process.argv.slice(2));
  if (options.help) {
    process.stdout.write(help);
    return 0;
  }
  const home = homePath(options.home);
  const ended = await endAll(home);
  if (ended.length === 0) process.stdout.write(`Nothing runs for ${home}.\n`);
  else
    process.stdout.write(
      `Baykeeper has stopped (${ended.map(({ role, forced }) => (forced ? `${role}, by force` : role)).join('; ')}). Containers go on running.\n`,
    );
  return 0;
});
