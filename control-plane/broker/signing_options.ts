import { type Command, Option } from 'commander';
import { duration } from '../option_values.ts';

/** How the control plane signs what it sends to agents. */
export interface SigningConfig {
  /** How long a key signs. */
  readonly keyLifeMs: number;
}

const dayMs = 24 * 3_600_000;

export function addSigningOptions(command: Command): Command {
  return command.addOption(
    new Option(
      '--signing-key-life <duration>',
      'how long a key signs messages to agents, at least four times --credential-ttl; the next one is announced in time',
    )
      .env('BAYKEEPER_SIGNING_KEY_LIFE')
      .argParser(duration('the life of a signing key', 1_000, 3650 * dayMs))
      .default(90 * dayMs, '2160h'),
  );
}

/** Reads them back, once the command line is parsed. */
export function readSigningOptions(command: Command): SigningConfig {
  const { signingKeyLife } = command.opts<{ signingKeyLife: number }>();
  return Object.freeze({ keyLifeMs: signingKeyLife });
}
