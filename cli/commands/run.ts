import { create } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import {
  type Container,
  ContainerSchema,
  MountType,
  PortProtocol,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import {
  collect,
  type MountArgument,
  type PortArgument,
  parseBytes,
  parseCpu,
  parseMount,
  parsePair,
  parsePort,
  parsePositiveDuration,
} from '../args.ts';
import { awaitObject, stateText } from '../await_object.ts';
import { dryRunOption } from '../dry_run.ts';
import { CliError, UsageError } from '../errors.ts';
import { kindRow } from '../kinds.ts';
import { label, metadataOf } from '../objects.ts';
import { escapeLine } from '../output/escape.ts';
import { Printer, parseOutput } from '../output/printer.ts';
import { Progress } from '../output/progress.ts';
import { phaseOf } from '../output/state.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';

interface RunFlags {
  readonly image: string;
  readonly command?: boolean;
  readonly env?: readonly (readonly [string, string])[];
  readonly port?: readonly PortArgument[];
  readonly volume?: readonly MountArgument[];
  readonly label?: readonly (readonly [string, string])[];
  readonly restart?: string;
  readonly cpu?: bigint;
  readonly memory?: bigint;
  readonly node?: string;
  readonly workdir?: string;
  readonly user?: string;
  readonly hostname?: string;
  readonly wait?: boolean;
  readonly timeout: number;
  readonly dryRun?: boolean;
  readonly output?: string;
}

const defaultTimeoutMs = 120_000;
const restartPolicies: Readonly<Record<string, RestartPolicy>> = {
  always: RestartPolicy.ALWAYS,
  'on-failure': RestartPolicy.ON_FAILURE,
  onfailure: RestartPolicy.ON_FAILURE,
  never: RestartPolicy.NEVER,
  no: RestartPolicy.NEVER,
};

/** `bayctl run`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('run')
    .description("run a container: what follows -- are its arguments, in the place of the image's own command")
    .argument('<name>', 'its name')
    .argument('[arg...]', 'after --: the command and its arguments')
    .requiredOption('--image <image>', 'the image, as docker pull takes it')
    .option('--command', "what follows -- takes the place of the image's entry point too")
    .option('--env <name=value>', 'an environment variable; may be given several times', collect(parsePair))
    .option(
      '-p, --port <port>',
      'publish a port: [[IP:]HOST:]CONTAINER[/udp]; may be given several times',
      collect(parsePort),
    )
    .option('--volume <mount>', 'SRC:DST[:ro]; may be given several times', collect(parseMount))
    .option('-l, --label <key=value>', 'a label; may be given several times', collect(parsePair))
    .option('--restart <policy>', 'always, on-failure or never (default: always)')
    .option('--cpu <cores>', 'at most so many cores: 0.5 or 500m', parseCpu)
    .option('--memory <bytes>', 'at most so much memory: 64Mi', parseBytes)
    .option('--node <name>', 'the node to run on (default: the control plane chooses)')
    .option('--workdir <path>', 'the folder it starts in')
    .option('--user <user>', 'the user it runs as')
    .option('--hostname <name>', 'its host name')
    .option('--wait', 'wait until it runs, or has ended well')
    .option('--timeout <time>', 'how long to wait', parsePositiveDuration, defaultTimeoutMs)
    .option('-o, --output <format>', 'show the object: json, yaml, name, jsonpath=TEMPLATE')
    .action(async (name: string, args: string[], flags: RunFlags, self: Command) => {
      await run(await environment.open(self), name, args, flags);
    });
  dryRunOption(command, 'check everything, and do nothing');
  // `-v` says what is called, here as everywhere; so volumes have the long word alone.
  examples(
    withGlobals(command),
    'bayctl run web -b local --image nginx --port 8080:80 --wait',
    'bayctl run once -b local --image busybox --restart never -- echo hello',
    'bayctl run db -b local --image postgres --env POSTGRES_PASSWORD=secret --volume pgdata:/var/lib/postgresql/data --memory 512Mi',
  );
}

async function run(session: Session, name: string, args: readonly string[], flags: RunFlags): Promise<void> {
  const format = await parseOutput(flags.output);
  const kind = kindRow('Container');
  if (!session.place.bay) {
    throw new UsageError('say in which bay, with -b BAY, BAYKEEPER_BAY or `bayctl config set-context --bay BAY`');
  }
  const made = await session.objects.create(toContainer(session, name, args, flags), {
    validateOnly: flags.dryRun === true,
  });
  const printer = new Printer(session.io, { format, header: true, namespaces: false });
  if (flags.output) await printer.one(made);
  else await session.out(`${escapeLine(label(made))} created${flags.dryRun ? ' (dry run)' : ''}\n`);
  if (!flags.wait || flags.dryRun) return;

  const progress = new Progress(session.io);
  try {
    const { uid } = metadataOf(made);
    const ended = await awaitObject(
      session,
      { kind, name, uid, place: session.place },
      {
        text: 'running',
        reached: (object) => {
          const phase = object ? phaseOf(object) : '';
          if (object?.$typeName === 'baykeeper.v1.Container' && phase === 'FAILED' && !object.status?.retryTime) {
            throw new CliError(`container/${name} failed: ${stateText(object)}; see \`bayctl why container/${name}\``);
          }
          return phase === 'RUNNING' || phase === 'SUCCEEDED';
        },
      },
      { deadlineMs: session.io.nowMs() + flags.timeout, progress },
    );
    progress.end();
    if (!flags.output)
      await session.out(
        `container/${escapeLine(name)} ${ended && phaseOf(ended) === 'SUCCEEDED' ? 'has ended well' : 'is running'}\n`,
      );
  } finally {
    progress.end();
  }
}

function toContainer(session: Session, name: string, words: readonly string[], flags: RunFlags): Container {
  if (flags.command && words.length === 0) throw new UsageError('--command needs a command after --');
  return create(ContainerSchema, {
    metadata: {
      bay: session.place.bay,
      namespace: session.place.namespace,
      name,
      labels: Object.fromEntries(flags.label ?? []),
    },
    spec: {
      image: flags.image,
      command: flags.command ? [...words] : [],
      args: flags.command ? [] : [...words],
      env: (flags.env ?? []).map(([key, value]) => ({ name: key, value })),
      ports: (flags.port ?? []).map((port) => ({ ...port, protocol: PortProtocol[port.protocol] })),
      mounts: (flags.volume ?? []).map((mount) => ({ ...mount, type: MountType[mount.type] })),
      restartPolicy: restartPolicy(flags.restart),
      workingDir: flags.workdir ?? '',
      user: flags.user ?? '',
      hostname: flags.hostname ?? '',
      node: flags.node ?? '',
      ...(flags.cpu || flags.memory
        ? { resources: { cpuMillis: flags.cpu ?? 0n, memoryBytes: flags.memory ?? 0n } }
        : {}),
    },
  });
}

function restartPolicy(word: string | undefined): RestartPolicy {
  if (word === undefined) return RestartPolicy.UNSPECIFIED;
  const found = restartPolicies[word.toLowerCase()];
  if (found === undefined) throw new UsageError(`--restart: "${word}" is not one of always, on-failure, never`);
  return found;
}
