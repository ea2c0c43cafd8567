import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { PodService } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { parseCount, parsePositiveDuration, parseTime } from '../args.ts';
import { UsageError } from '../errors.ts';
import { write } from '../io.ts';
import { named, within } from '../objects.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';
import { parseStreamTarget } from '../targets.ts';

interface LogsFlags {
  readonly follow?: boolean;
  readonly tail?: number;
  readonly since?: number;
  readonly sinceTime?: number;
  readonly timestamps?: boolean;
  readonly stdout?: boolean;
  readonly stderr?: boolean;
  readonly container?: string;
  readonly previous?: boolean;
}

/** `bayctl logs`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('logs')
    .description('show what a container writes, its stdout to stdout, its stderr to stderr; or one of a pod, to stdout')
    .argument('<object>', 'container/NAME, pod/NAME, or the NAME of a container')
    .option('-f, --follow', 'go on as it writes more')
    .option('--tail <lines>', 'only the last so many lines', parseCount)
    .option('--since <time>', 'only what is not older than this: 10m', parsePositiveDuration)
    .option('--since-time <time>', 'only what was written at or after this time (RFC 3339)', parseTime)
    .option('--timestamps', 'begin each line with its time')
    .option('-c, --container <name>', 'of a pod: which container (default: its only one, or its first)')
    .option('-p, --previous', 'of a pod: of the run before this one')
    .option('--stdout', 'of a container: only its stdout')
    .option('--stderr', 'of a container: only its stderr')
    .action(async (object: string, flags: LogsFlags, self: Command) =>
      logs(await environment.open(self), object, flags),
    );
  examples(
    withGlobals(command),
    'bayctl logs container/web -b local',
    'bayctl logs container/web -b local -f --tail 20',
    'bayctl logs web -b local --since 1h --timestamps',
    'bayctl logs pod/redis-master -c sentinel -b edge-1 -f',
    'bayctl logs pod/redis-master --previous -b edge-1',
  );
}

async function logs(session: Session, object: string, flags: LogsFlags): Promise<void> {
  const isOfPod = flags.container !== undefined || flags.previous === true;
  const { kind, name } = parseStreamTarget(object, 'has no logs', isOfPod);
  if (flags.since !== undefined && flags.sinceTime !== undefined)
    throw new UsageError('give --since or --since-time, not both');
  const sinceMs = flags.since === undefined ? flags.sinceTime : session.io.nowMs() - flags.since;
  const which = {
    ...within(kind, session.place, session.settings),
    ...named(name),
    follow: flags.follow === true,
    ...(flags.tail === undefined ? {} : { tailLines: BigInt(flags.tail) }),
    ...(sinceMs === undefined ? {} : { sinceTime: timestampFromMs(sinceMs) }),
    timestamps: flags.timestamps === true,
  };
  if (kind.name === 'Pod') {
    if (flags.stdout || flags.stderr)
      throw new UsageError('--stdout and --stderr are for containers: Kubernetes keeps both outputs of a pod in one');
    const request = { ...which, container: flags.container ?? '', previous: flags.previous === true };
    for await (const { output } of session.api.stream(PodService.method.podLogs, request))
      await write(session.io.stdout, output);
    return;
  }
  const request = { ...which, stdout: flags.stdout === true, stderr: flags.stderr === true };
  // What a container writes goes out as it is, colours and all, as from `docker logs`.
  for await (const { output: piece } of session.api.stream(ContainerService.method.logs, request)) {
    if (piece.case === 'stdout') await write(session.io.stdout, piece.value);
    else if (piece.case === 'stderr') await write(session.io.stderr, piece.value);
  }
}
