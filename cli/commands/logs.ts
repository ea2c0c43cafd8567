import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { parseCount, parsePositiveDuration, parseTime } from '../args.ts';
import { UsageError } from '../errors.ts';
import { write } from '../io.ts';
import { parseTarget } from '../kinds.ts';
import { named, within } from '../objects.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';

interface LogsFlags {
  readonly follow?: boolean;
  readonly tail?: number;
  readonly since?: number;
  readonly sinceTime?: number;
  readonly timestamps?: boolean;
  readonly stdout?: boolean;
  readonly stderr?: boolean;
}

/** `bayctl logs`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('logs')
    .description('show what a container writes: its stdout to stdout, its stderr to stderr')
    .argument('<container>', 'container/NAME, or NAME')
    .option('-f, --follow', 'go on as it writes more')
    .option('--tail <lines>', 'only the last so many lines', parseCount)
    .option('--since <time>', 'only what is not older than this: 10m', parsePositiveDuration)
    .option('--since-time <time>', 'only what was written at or after this time (RFC 3339)', parseTime)
    .option('--timestamps', 'begin each line with its time')
    .option('--stdout', 'only its stdout')
    .option('--stderr', 'only its stderr')
    .action(async (container: string, flags: LogsFlags, self: Command) =>
      logs(await environment.open(self), container, flags),
    );
  examples(
    withGlobals(command),
    'bayctl logs container/web -b local',
    'bayctl logs container/web -b local -f --tail 20',
    'bayctl logs web -b local --since 1h --timestamps',
  );
}

async function logs(session: Session, container: string, flags: LogsFlags): Promise<void> {
  const { kind, name } = parseTarget(container, 'Container');
  if (kind.name !== 'Container') throw new UsageError(`there are no logs of a ${kind.singular}, but of a container`);
  if (flags.since !== undefined && flags.sinceTime !== undefined)
    throw new UsageError('give --since or --since-time, not both');
  const sinceMs = flags.since === undefined ? flags.sinceTime : session.io.nowMs() - flags.since;
  const output = session.api.stream(ContainerService.method.logs, {
    ...within(kind, session.place),
    ...named(name),
    follow: flags.follow === true,
    ...(flags.tail === undefined ? {} : { tailLines: BigInt(flags.tail) }),
    ...(sinceMs === undefined ? {} : { sinceTime: timestampFromMs(sinceMs) }),
    timestamps: flags.timestamps === true,
    stdout: flags.stdout === true,
    stderr: flags.stderr === true,
  });
  // What a container writes goes out as it is, colours and all, as from `docker logs`.
  for await (const { output: piece } of output) {
    if (piece.case === 'stdout') await write(session.io.stdout, piece.value);
    else if (piece.case === 'stderr') await write(session.io.stderr, piece.value);
  }
}
