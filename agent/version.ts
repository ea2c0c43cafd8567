import { readFileSync } from 'node:fs';

/** The version of this agent, as in the package. */
export function agentVersion(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  return version;
}
