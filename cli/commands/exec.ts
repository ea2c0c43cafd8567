import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { ContainerService, type ExecuteStartSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { type ExecutePodStartSchema, PodService } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { collect, parsePair } from '../args.ts';
import { exitStatus, SilentExit, UsageError } from '../errors.ts';
import { type ExecFlags, type ExecInput, runCommand } from '../exec_session.ts';
import { named, within } from '../objects.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';
import { inItsProject, parseStreamTarget } from '../targets.ts';

interface Flags extends ExecFlags {
  readonly container?: string;
  readonly env?: readonly (readonly [string, string])[];
  readonly workdir?: string;
  readonly user?: string;
}

/** `bayctl exec`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('exec')
    .description('run a command in a container, or in one of a pod; ends with its exit status')
    .argument('<object>', 'container/NAME, pod/NAME, or the NAME of a container')
    .argument('<command...>', 'after --: the command and its arguments')
    .option('-i, --stdin', 'hand on stdin')
    .option('-t, --tty', 'give it a terminal')
    .option('-c, --container <name>', 'of a pod: which container (default: its only one, or its first)')
    .option(
      '--env <name=value>',
      'of a container: an environment variable; may be given several times',
      collect(parsePair),
    )
    .option('--workdir <path>', 'of a container: the folder it starts in')
    .option('--user <user>', 'of a container: the user it runs as')
    .action(async (object: string, words: string[], flags: Flags, self: Command) =>
      exec(environment, await environment.open(self), object, words, flags),
    );
  examples(
    withGlobals(command),
    'bayctl exec container/web -b local -- ls -l /',
    'bayctl exec -it container/web -b local -- sh',
    'bayctl exec -it pod/redis-master -c sentinel -b edge-1 -- sh',
    'tar -c data | bayctl exec -i container/web -b local -- tar -x -C /srv',
  );
}

async function exec(
  environment: Environment,
  opened: Session,
  object: string,
  words: readonly string[],
  flags: Flags,
): Promise<void> {
  const { kind, name } = parseStreamTarget(object, 'runs no commands', flags.container !== undefined);
  const session = await inItsProject(environment, opened, kind, name);
  const which = { ...within(kind, session.place, session.settings), ...named(name), command: [...words] };
  const status = kind.name === 'Pod' ? await inPod(session, which, flags) : await inContainer(session, which, flags);
  if (status !== exitStatus.ok) throw new SilentExit(status);
}

type Which = { readonly bay?: string; readonly command: string[] };

function inPod(session: Session, which: Which, flags: Flags): Promise<number> {
  const other = (['env', 'workdir', 'user'] as const).find((flag) => flags[flag] !== undefined);
  if (other) throw new UsageError(`--${other} is for containers; Kubernetes runs commands in pods as the container is`);
  return runCommand<MessageInitShape<typeof ExecutePodStartSchema>>(session, flags, {
    start: (terminal) => ({ ...which, ...terminal, container: flags.container ?? '' }),
    open: (inputs) => session.api.stream(PodService.method.executePod, requests(inputs)),
  });
}

function inContainer(session: Session, which: Which, flags: Flags): Promise<number> {
  return runCommand<MessageInitShape<typeof ExecuteStartSchema>>(session, flags, {
    start: (terminal) => ({
      ...which,
      ...terminal,
      env: (flags.env ?? []).map(([name, value]) => ({ name, value })),
      workingDir: flags.workdir ?? '',
      user: flags.user ?? '',
    }),
    open: (inputs) => session.api.stream(ContainerService.method.execute, requests(inputs)),
  });
}

async function* requests<Start>(inputs: AsyncIterable<ExecInput<Start>>): AsyncIterable<{ input: ExecInput<Start> }> {
  for await (const input of inputs) yield { input };
}
