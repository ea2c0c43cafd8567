import { type Command, InvalidArgumentError } from 'commander';

/** How users say that nothing is to be done: a bare `--dry-run` means `server`. */
export const dryRunFlag = '--dry-run';

/** Gives a command `--dry-run[=server]`, whose value is true for a dry run. */
export function dryRunOption(command: Command, description: string): Command {
  return command.option(`${dryRunFlag} [how]`, `${description}; server (when nothing is said) or none`, parseDryRun);
}

/** Gives a bare `--dry-run` its meaning, so that it does not take the word after it for its value. */
export function withDryRunValue(argv: readonly string[]): readonly string[] {
  const end = argv.indexOf('--');
  return argv.map((word, index) => (word === dryRunFlag && (end < 0 || index < end) ? `${dryRunFlag}=server` : word));
}

function parseDryRun(text: string): boolean {
  if (text === 'server') return true;
  if (text === 'none') return false;
  const why = text === 'client' ? ': only the control plane and the cluster know what they would take' : '';
  throw new InvalidArgumentError(`Expected server or none${why}.`);
}
