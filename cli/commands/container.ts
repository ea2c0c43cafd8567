import type { DescMethodUnary } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { renderError, SilentExit } from '../errors.ts';
import { kindRow } from '../kinds.ts';
import { named, within } from '../objects.ts';
import { escapeLine } from '../output/escape.ts';
import { type Environment, examples, withGlobals } from '../session.ts';
import { namesOf } from '../targets.ts';

interface Verb {
  readonly name: string;
  readonly summary: string;
  readonly done: string;
  readonly method: DescMethodUnary;
}

const verbs: readonly Verb[] = [
  {
    name: 'start',
    summary: 'ask for containers to run',
    done: 'asked to start',
    method: ContainerService.method.startContainer,
  },
  {
    name: 'stop',
    summary: 'ask for containers to be stopped',
    done: 'asked to stop',
    method: ContainerService.method.stopContainer,
  },
  {
    name: 'pause',
    summary: 'ask for containers to be paused',
    done: 'asked to pause',
    method: ContainerService.method.pauseContainer,
  },
  {
    name: 'unpause',
    summary: 'ask for paused containers to go on',
    done: 'asked to unpause',
    method: ContainerService.method.unpauseContainer,
  },
  {
    name: 'reboot',
    summary: 'ask for containers to be stopped and started once',
    done: 'asked to reboot',
    method: ContainerService.method.rebootContainer,
  },
];

/** `bayctl container`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('container')
    .description('start, stop, pause, unpause, reboot containers; a node that is away does it when it is back');
  examples(command, 'bayctl container stop web -b local', 'bayctl container reboot web db -b local');
  const kind = kindRow('Container');
  for (const verb of verbs) {
    const own = command
      .command(verb.name)
      .description(verb.summary)
      .argument('<name...>', 'names, or container/NAME')
      .action(async (words: string[], _flags: unknown, self: Command) => {
        const session = await environment.open(self);
        let status = 0;
        for (const name of namesOf(words, 'Container')) {
          try {
            await session.api.unary(verb.method, { ...within(kind, session.place, session.settings), ...named(name) });
            await session.out(`container/${escapeLine(name)} ${verb.done}\n`);
          } catch (error) {
            const rendered = renderError(error, session.flags.verbose === true);
            status ||= rendered.status;
            await session.err(rendered.text);
          }
        }
        if (status) throw new SilentExit(status);
      });
    examples(withGlobals(own), `bayctl container ${verb.name} web -b local`);
  }
}
