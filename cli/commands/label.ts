import type { Command } from 'commander';
import { registerMetadataCommand } from '../metadata_change.ts';
import type { Environment } from '../session.ts';

/** `bayctl label`. */
export function register(parent: Command, environment: Environment): void {
  registerMetadataCommand(parent, environment, { command: 'label', field: 'labels' });
}
