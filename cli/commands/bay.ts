import { durationFromMs } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { parsePositiveCount, parsePositiveDuration } from '../args.ts';
import { CliError } from '../errors.ts';
import { isHostile } from '../output/escape.ts';
import { type Environment, examples, withGlobals } from '../session.ts';
import { registerBayRevoke } from './bay_revoke.ts';
import { bayOptions, createBay } from './create.ts';
import { registerJoinTokens } from './join_token.ts';

interface JoinFlags {
  readonly ttl?: number;
  readonly uses?: number;
  readonly description?: string;
}

/** `bayctl bay`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent.command('bay').description('make bays, let nodes join them, and end the trust in them');
  examples(command, 'bayctl bay create edge-1', 'bayctl bay join-command edge-1');
  const create = command
    .command('create')
    .description('make a bay')
    .argument('<name>', 'its name')
    .action(async (name: string, flags: Parameters<typeof createBay>[2], self: Command) =>
      createBay(await environment.open(self), name, flags),
    );
  examples(
    withGlobals(bayOptions(create)),
    'bayctl bay create edge-1',
    'bayctl bay create edge-2 --engine kubernetes',
    'bayctl bay create edge-3 --model racks',
  );

  const join = command
    .command('join-command')
    .description('print the line to run on a machine that shall become a node of the bay; it holds a secret')
    .argument('<name>', 'the bay')
    .option('--ttl <time>', 'how long it may be used (default: 1h)', parsePositiveDuration)
    .option('--uses <count>', 'how many nodes may join with it (default: 1)', parsePositiveCount)
    .option('--description <text>', 'what it is for, shown by `bayctl bay join-token list`')
    .action(async (name: string, flags: JoinFlags, self: Command) => {
      const session = await environment.open(self);
      const { bay } = await session.api.unary(BayService.method.getBay, { name });
      const response = await session.api.unary(JoinTokenService.method.createJoinToken, {
        bay: name,
        ...(flags.ttl === undefined ? {} : { ttl: durationFromMs(flags.ttl) }),
        maxUses: flags.uses ?? 0,
        description: flags.description ?? '',
      });
      // It will be pasted into a shell: one line, and nothing in it that does not show.
      const line = response.joinCommand.trim();
      if (line === '' || isHostile(line))
        throw new CliError('the server gave a join command that is not one plain line');
      await session.out(`${line}\n`);
      if (bay?.spec?.containerEngine === ContainerEngine.KUBERNETES) {
        await session.err(
          'Run it on a master of the cluster, with --kubeconfig FILE behind it unless KUBECONFIG or ~/.kube/config leads to the cluster.\n',
        );
      }
    });
  registerJoinTokens(command, environment);
  registerBayRevoke(command, environment);
  examples(withGlobals(join), 'bayctl bay join-command edge-1', 'bayctl bay join-command edge-1 --ttl 24h --uses 10');
}
