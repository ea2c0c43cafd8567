import { create } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import {
  ContainerService,
  type ExecuteRequest,
  ExecuteRequestSchema,
} from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { collect, parsePair } from '../args.ts';
import { CliError, exitStatus, SilentExit, UsageError } from '../errors.ts';
import { InputQueue } from '../input_queue.ts';
import { type Io, write } from '../io.ts';
import { parseTarget } from '../kinds.ts';
import { named, within } from '../objects.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';

interface ExecFlags {
  readonly stdin?: boolean;
  readonly tty?: boolean;
  readonly env?: readonly (readonly [string, string])[];
  readonly workdir?: string;
  readonly user?: string;
}

/** `bayctl exec`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('exec')
    .description('run a command in a container; ends with its exit status')
    .argument('<container>', 'container/NAME, or NAME')
    .argument('<command...>', 'after --: the command and its arguments')
    .option('-i, --stdin', 'hand on stdin')
    .option('-t, --tty', 'give it a terminal')
    .option('--env <name=value>', 'an environment variable; may be given several times', collect(parsePair))
    .option('--workdir <path>', 'the folder it starts in')
    .option('--user <user>', 'the user it runs as')
    .action(async (container: string, words: string[], flags: ExecFlags, self: Command) =>
      exec(await environment.open(self), container, words, flags),
    );
  examples(
    withGlobals(command),
    'bayctl exec container/web -b local -- ls -l /',
    'bayctl exec -it container/web -b local -- sh',
    'tar -c data | bayctl exec -i container/web -b local -- tar -x -C /srv',
  );
}

async function exec(session: Session, container: string, words: readonly string[], flags: ExecFlags): Promise<void> {
  const { io } = session;
  const { kind, name } = parseTarget(container, 'Container');
  if (kind.name !== 'Container') throw new UsageError(`commands run in containers, and not in a ${kind.singular}`);
  const withInput = flags.stdin === true;
  let tty = flags.tty === true;
  if (tty && !(withInput ? io.stdin.isTTY : io.stdout.isTTY)) {
    await session.err('bayctl: there is no terminal here to hand on; going on without -t\n');
    tty = false;
  }
  const requests = new InputQueue<ExecuteRequest>();
  requests.push(
    create(ExecuteRequestSchema, {
      input: {
        case: 'start',
        value: {
          ...within(kind, session.place),
          ...named(name),
          command: [...words],
          tty,
          stdin: withInput,
          env: (flags.env ?? []).map(([key, value]) => ({ name: key, value })),
          workingDir: flags.workdir ?? '',
          user: flags.user ?? '',
          ...(tty ? { terminalSize: size(io) } : {}),
        },
      },
    }),
  );
  const restore = tty && withInput ? rawMode(io) : () => {};
  const onResize = (): void => {
    requests.push(create(ExecuteRequestSchema, { input: { case: 'resize', value: size(io) } }));
  };
  if (tty) io.stdout.on('resize', onResize);
  const stopInput = withInput ? pump(io, requests) : () => {};
  if (!withInput && !tty) requests.end();
  try {
    const code = await receive(session, requests);
    if (code !== exitStatus.ok) throw new SilentExit(code);
  } finally {
    stopInput();
    io.stdout.off('resize', onResize);
    requests.end();
    restore();
  }
}

/** Writes the output until the exit code comes. */
async function receive(session: Session, requests: AsyncIterable<ExecuteRequest>): Promise<number> {
  const { stdout, stderr } = session.io;
  for await (const { output } of session.api.stream(ContainerService.method.execute, requests)) {
    if (output.case === 'stdout') await write(stdout, output.value);
    else if (output.case === 'stderr') await write(stderr, output.value);
    // 256 and more would be cut to their last byte, and look like success.
    else if (output.case === 'exitCode')
      return output.value >= 0 && output.value <= 255 ? output.value : exitStatus.failed;
  }
  throw new CliError('the command ended, and nobody said with which exit status', exitStatus.unavailable);
}

/** Hands stdin on, no faster than it is taken. Returns what ends it. */
function pump(io: Io, requests: InputQueue<ExecuteRequest>): () => void {
  const { stdin } = io;
  const onData = (chunk: Uint8Array): void => {
    requests.push(create(ExecuteRequestSchema, { input: { case: 'stdin', value: new Uint8Array(chunk) } }));
    if (requests.size >= 8) {
      stdin.pause();
      requests.whenTaken(() => stdin.resume());
    }
  };
  const onEnd = (): void => {
    requests.push(create(ExecuteRequestSchema, { input: { case: 'stdinEnd', value: true } }));
  };
  stdin.on('data', onData);
  stdin.once('end', onEnd);
  stdin.once('error', onEnd);
  return () => {
    stdin.off('data', onData);
    stdin.off('end', onEnd);
    stdin.off('error', onEnd);
    stdin.pause();
  };
}

/** Every key goes to the container. Returns what gives the terminal back, which also happens when the program ends. */
function rawMode(io: Io): () => void {
  io.stdin.setRawMode?.(true);
  let raw = true;
  const undo = (): void => {
    if (raw) io.stdin.setRawMode?.(false);
    raw = false;
  };
  const release = io.atExit(undo);
  return () => {
    release();
    undo();
  };
}

function size(io: Io): { columns: number; rows: number } {
  return { columns: io.stdout.columns || 80, rows: io.stdout.rows || 24 };
}
