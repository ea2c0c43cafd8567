import { create as createMessage } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { BayModelSchema } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import { BaySchema } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { ContainerEngine, Provisioner } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { type ClusterFlags, clusterOptions, type FileFlags, fileOptions, readObjects } from '../apply_manifests.ts';
import { collect, parseCount, parsePair } from '../args.ts';
import { dryRunOption } from '../dry_run.ts';
import { renderError, SilentExit, UsageError } from '../errors.ts';
import { type AnyObject, label } from '../objects.ts';
import { escapeLine } from '../output/escape.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';

interface CreateFlags extends FileFlags, ClusterFlags {
  readonly dryRun?: boolean;
}

interface BayFlags {
  readonly engine?: string;
  readonly model?: string;
  readonly nodes?: number;
  readonly label?: readonly (readonly [string, string])[];
  readonly dryRun?: boolean;
}

interface BayModelFlags {
  readonly engine: string;
  readonly provisioner: string;
  readonly image?: string;
  readonly flavor?: string;
  readonly masterFlavor?: string;
  readonly keypair?: string;
  readonly externalNetwork?: string;
  readonly fixedNetwork?: string;
  readonly dnsServer?: string;
  readonly dockerVolumeSize?: number;
  readonly public?: boolean;
  readonly dryRun?: boolean;
}

const engines: Readonly<Record<string, ContainerEngine>> = {
  docker: ContainerEngine.DOCKER,
  kubernetes: ContainerEngine.KUBERNETES,
};

/** `bayctl create`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('create')
    .description('make objects, from files or by name; an error when one is there already')
    .action(async (flags: CreateFlags, self: Command) => {
      if (self.args.length > 0)
        throw new UsageError(
          `cannot create "${self.args.join(' ')}": create bay NAME, create baymodel NAME, or -f FILE`,
        );
      if (!flags.filename) throw new UsageError('say what: create bay NAME, create baymodel NAME, or -f FILE');
      const session = await environment.open(self);
      const sources = await readObjects(session, flags, { generateNames: true });
      let status = 0;
      for (const { object, where } of sources) {
        try {
          await createOne(session, object, flags.dryRun === true);
        } catch (error) {
          const rendered = renderError(error, session.flags.verbose === true);
          status ||= rendered.status;
          await session.err(
            rendered.text.replace(/^Error: /, () => `Error: ${escapeLine(`${where}: ${label(object)}: `)}`),
          );
        }
      }
      if (status) throw new SilentExit(status);
    });
  clusterOptions(fileOptions(command));
  dryRunOption(command, 'check everything, and do nothing');
  examples(
    withGlobals(command),
    'bayctl create -f web.yaml -b local',
    'bayctl create bay edge-1',
    'bayctl create baymodel racks --engine docker',
  );
  const bay = command
    .command('bay')
    .description('make a bay')
    .argument('<name>', 'its name')
    .action(async (name: string, flags: BayFlags, self: Command) =>
      createBay(await environment.open(self), name, flags),
    );
  examples(
    withGlobals(bayOptions(bay)),
    'bayctl create bay edge-1',
    'bayctl create bay edge-2 --engine kubernetes',
    'bayctl create bay edge-3 --model racks --label site=north',
  );
  const model = command
    .command('baymodel')
    .alias('bm')
    .description('make a bay model: a template for bays')
    .argument('<name>', 'its name')
    .option('--engine <engine>', 'docker or kubernetes', 'docker')
    .option('--provisioner <provisioner>', 'enroll (nodes join by themselves) or heat (OpenStack)', 'enroll')
    .option('--image <image>', 'what nodes boot from')
    .option('--flavor <flavor>', 'size of the nodes')
    .option('--master-flavor <flavor>', 'size of the master (default: as --flavor)')
    .option('--keypair <name>', 'key pair known to the provisioner')
    .option('--external-network <network>', 'the network that leads outside')
    .option('--fixed-network <cidr>', "the range of the nodes' own network")
    .option('--dns-server <address>', 'the name server of the nodes')
    .option('--docker-volume-size <gib>', "size of the volume for Docker's data, in GiB", parseCount)
    .option('--public', 'for every project to make bays of: admins only')
    .action(async (name: string, flags: BayModelFlags, self: Command) =>
      createBayModel(await environment.open(self), name, flags),
    );
  dryRunOption(model, 'check everything, and do nothing');
  examples(
    withGlobals(model),
    'bayctl create baymodel racks --engine docker',
    'bayctl create baymodel clusters --engine kubernetes',
    'bayctl create baymodel cloud --engine docker --provisioner heat --image debian-12 --flavor m1.small',
  );
}

/** The options of `create bay` and `bay create`. */
export function bayOptions(command: Command): Command {
  command
    .option('--engine <engine>', 'docker or kubernetes (default: as the model says; without one docker)')
    .option('--model <name>', 'the bay model it is made from (default: nodes join by themselves)')
    .option('--nodes <count>', 'how many nodes it should have', parseCount)
    .option('--label <key=value>', 'a label; may be given several times', collect(parsePair));
  return dryRunOption(command, 'check everything, and do nothing');
}

/** Makes a bay, and says so. */
export async function createBay(session: Session, name: string, flags: BayFlags): Promise<void> {
  const bay = createMessage(BaySchema, {
    metadata: { name, labels: Object.fromEntries(flags.label ?? []) },
    spec: {
      bayModel: flags.model ?? '',
      nodeCount: flags.nodes ?? 0,
      ...(flags.engine === undefined ? {} : { containerEngine: choose('--engine', engines, flags.engine) }),
    },
  });
  await createOne(session, bay, flags.dryRun === true);
}

async function createBayModel(session: Session, name: string, flags: BayModelFlags): Promise<void> {
  const model = createMessage(BayModelSchema, {
    metadata: { name },
    spec: {
      containerEngine: choose('--engine', engines, flags.engine),
      provisioner: choose('--provisioner', { enroll: Provisioner.ENROLL, heat: Provisioner.HEAT }, flags.provisioner),
      image: flags.image ?? '',
      flavor: flags.flavor ?? '',
      masterFlavor: flags.masterFlavor ?? '',
      keypair: flags.keypair ?? '',
      externalNetwork: flags.externalNetwork ?? '',
      fixedNetwork: flags.fixedNetwork ?? '',
      dnsServer: flags.dnsServer ?? '',
      dockerVolumeSizeGib: flags.dockerVolumeSize ?? 0,
      public: flags.public === true,
    },
  });
  await createOne(session, model, flags.dryRun === true);
}

async function createOne(session: Session, object: AnyObject, dryRun: boolean): Promise<void> {
  const made = await session.objects.create(object, { validateOnly: dryRun });
  await session.out(`${escapeLine(label(made))} created${dryRun ? ' (dry run)' : ''}\n`);
}

function choose<T>(flag: string, choices: Readonly<Record<string, T>>, word: string): T {
  const key = word.toLowerCase();
  const chosen = Object.hasOwn(choices, key) ? choices[key] : undefined;
  if (chosen === undefined) throw new UsageError(`${flag}: "${word}" is not one of ${Object.keys(choices).join(', ')}`);
  return chosen;
}
