import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { Command, CommanderError } from 'commander';
import {
  ConfigError,
  defaultDataDir,
  defaultDockerSocket,
  defaultLeaseNamespace,
  type Flags,
  type JoinConfig,
  readConfig,
  readJoinConfig,
} from './config.ts';
import { exitCodes, reportFailure } from './failure.ts';
import type { Trust } from './link/trust.ts';
import { defaultPolicyFile } from './policy_file.ts';
import { relaunchLean } from './process/lean.ts';
import { agentVersion } from './version.ts';

function command(): Command {
  const program = new Command('baykeeper-agent')
    .description(
      'Makes this machine a node of a Baykeeper bay, and sees to it that its engine runs what the bay should have.',
    )
    .version(agentVersion())
    .exitOverride()
    .addHelpText(
      'after',
      `
Every option can be given in the environment as well: BAYKEEPER_AGENT_DATA, BAYKEEPER_AGENT_LOG_LEVEL, and so on.

Examples:
  BAYKEEPER_AGENT_TOKEN=ID.SECRET agent/baykeeper-agent join --server https://10.0.0.1:7480 --ca-fingerprint sha256:… --bay edge-1
  agent/baykeeper-agent run`,
    );
  shared(program.command('join'))
    .description('enrol this machine in a bay, then run; a machine that has joined before just runs on')
    .option('--server <url>', 'URL of the control plane')
    .option(
      '--token <id.secret>',
      'join token; better in BAYKEEPER_AGENT_TOKEN, as `bayctl bay join-command` prints it: others see arguments',
    )
    .option('--ca-fingerprint <sha256:hex>', "of the control plane's CA, which is then trusted, and nobody else")
    .option('--ca-file <file>', 'the CA itself, as PEM (default: whom this machine trusts)')
    .option('--bay <name>', 'the bay that is meant (default: the one that the token is for)')
    .option('--name <node>', "wanted name of the node (default: the machine's name)")
    .option('--enroll-only', 'enrol, and do not go on running')
    .action(join);
  shared(program.command('run'))
    .description('run with what the machine got when it joined')
    .option('--server <url>', 'new URL of the control plane, which is kept (default: the one of last time)')
    .action(run);
  program
    .command('policy')
    .description("read the node's policy as a running agent would, and say what is allowed; nothing is changed")
    .argument('[file]', `default: ${defaultPolicyFile}`)
    .exitOverride()
    .action(policy);
  return program;
}

const shared = (of: Command) =>
  of
    .option('--data <dir>', `folder for key, credentials and state (default: ${defaultDataDir})`)
    .option('--docker <socket>', `the Docker engine's socket (default: ${defaultDockerSocket})`)
    .option(
      '--kubeconfig <file>',
      "on a Kubernetes bay: way into the cluster (default: the pod's service account, KUBECONFIG, or ~/.kube/config)",
    )
    .option('--kube-context <name>', "the kubeconfig's context (default: its current one)")
    .option(
      '--lease-namespace <name>',
      `where the masters of a Kubernetes bay agree on who leads (default: ${defaultLeaseNamespace})`,
    )
    .option(
      '--policy <file>',
      `what the node's owner allows on it (default: ${defaultPolicyFile}, or agent.yaml in the data folder, if there is one)`,
    )
    .option('--log-level <level>', 'debug, info, warn, error or silent (default: info)')
    .exitOverride();

async function join(flags: Flags): Promise<void> {
  const config = readConfig(flags, process.env);
  const wanted = readJoinConfig(flags, process.env);
  const [{ lockFolder }, { openIdentity }, { enroll }, { systemTrust, trustFrom }] = await Promise.all([
    import('./lock.ts'),
    import('./link/identity.ts'),
    import('./link/enroll.ts'),
    import('./link/trust.ts'),
  ]);
  const unlock = await lockFolder(config.dataDir);
  try {
    const identity = await openIdentity(config.dataDir);
    const { node } = identity;
    const trust = await wantedTrust(wanted);
    if (node && wanted.bay && wanted.bay !== node.bay) {
      throw new ConfigError(
        `this machine is node ${node.node} of bay ${node.bay} already: give --data another folder to join ${wanted.bay} as well, or empty ${config.dataDir} to leave ${node.bay}`,
      );
    }
    if (node) {
      // After a roll-over that it has missed, this is how it learns of it.
      if (trust) {
        await identity.trustIn(trust);
        await identity.enrolledAt(wanted.server);
      }
      process.stderr.write(`this machine is node ${node.node} of bay ${node.bay} already\n`);
    } else {
      await identity.trustIn(trust ?? systemTrust);
      const credentials = await enroll(
        {
          server: wanted.server,
          identity,
          nowMs: () => Date.now(),
          trusted: trust?.certificates,
          onTrust: (bundle) => identity.trustIn(trustFrom(bundle, wanted.server)),
        },
        { token: wanted.token, bay: wanted.bay, nodeName: wanted.nodeName, agentVersion: agentVersion() },
      );
      // Where first: an agent that has credentials must know where to renew them.
      await identity.enrolledAt(wanted.server);
      await identity.take(credentials);
      process.stderr.write(`joined bay ${credentials.bay} as node ${credentials.node}\n`);
    }
  } finally {
    await unlock();
  }
  if (!flags.enrollOnly) await run(flags);
}

/** Whom the command line says to trust; undefined when it does not. */
async function wantedTrust({ server, caFingerprint, caFile }: JoinConfig): Promise<Trust | undefined> {
  const { trustIn } = await import('./link/trust.ts');
  if (caFingerprint !== undefined) {
    const { fetchAuthority } = await import('./link/fetch_authority.ts');
    return trustIn([await fetchAuthority(server, caFingerprint)]);
  }
  if (caFile === undefined) return undefined;
  const { certificatesIn } = await import('../proto/fingerprint.ts');
  try {
    const found = certificatesIn(await readFile(caFile, 'utf8'));
    if (found.length > 0) return trustIn(found.map(String));
  } catch (cause) {
    throw new ConfigError(`--ca-file: cannot read ${caFile}: ${(cause as Error).message}`, { cause });
  }
  throw new ConfigError(`--ca-file: ${caFile} holds no certificate: expected PEM`);
}

async function run(flags: Flags): Promise<void> {
  const config = readConfig(flags, process.env);
  relaunchLean(config);
  // Not on this system: as it is, then.
  const { runAgent } = await import('./run.ts');
  await runAgent(config, agentVersion());
}

async function policy(file: string = defaultPolicyFile): Promise<void> {
  const [{ loadPolicy }, { summary }] = await Promise.all([import('./policy_file.ts'), import('./policy.ts')]);
  process.stdout.write(`${summary(await loadPolicy(resolve(file))).replaceAll(', ', '\n')}\n`);
}

/** Runs what the command line says, to its end. Never rejects: what goes wrong is printed, and the exit code set. */
export async function main(): Promise<void> {
  try {
    await command().parseAsync();
  } catch (error) {
    // Commander has printed its own.
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : exitCodes.config;
    else reportFailure(error);
  }
}
