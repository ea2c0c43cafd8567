import { NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import type { ControlPlane } from './control_plane.ts';
import { ownProgram, Program, run } from './program.ts';
import { temporaryFolder } from './temporary_folder.ts';
import { until } from './until.ts';

/** An agent as a process of its own, enrolled and running. */
export interface Agent {
  readonly bay: string;
  readonly name: string;
  readonly dataDir: string;
  readonly program: Program;
  kill9(): Promise<void>;
  stop(): Promise<void>;
  /** Starts it again on the same data, after `kill9` or `stop`. */
  start(): Promise<void>;
  /** Resolves when the control plane says that the node is ready. */
  ready(timeoutMs?: number): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface AgentOptions {
  readonly controlPlane: ControlPlane;
  /** Must be there. */
  readonly bay: string;
  readonly name: string;
  /** Path of the Docker engine's socket. Default: there is none. */
  readonly dockerSocket?: string;
  /** Path of a kubeconfig, for a Kubernetes bay. */
  readonly kubeconfig?: string;
  /** Default: a new one, which is removed at the end. With one that has enrolled already, no token is used. */
  readonly dataDir?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** What starts it: `unshare --mount`, and the like. Default: nothing. */
  readonly under?: readonly string[];
  /** Whether to wait until the node is ready. Default true. */
  readonly waitReady?: boolean;
}

export async function startAgent(options: AgentOptions): Promise<Agent> {
  const {
    controlPlane,
    bay,
    name,
    dockerSocket = '/nowhere/docker.sock',
    kubeconfig,
    env,
    waitReady = true,
    under = [],
  } = options;
  const folder = options.dataDir ? undefined : await temporaryFolder('agent');
  const dataDir = options.dataDir ?? folder?.path ?? '';
  const node = ['--data', dataDir, '--docker', dockerSocket, ...(kubeconfig ? ['--kubeconfig', kubeconfig] : [])];
  const [file, ...args] = [...under, ...ownProgram('agent/main.ts', 'run', ...node)];
  if (file === undefined) throw new TypeError('no command');
  const program = new Program({ command: [file, ...args], env });
  const dispose = async () => {
    await program.stop();
    await folder?.[Symbol.asyncDispose]();
  };
  const ready = async (timeoutMs = 30_000) => {
    const nodes = controlPlane.client(NodeService);
    await until(
      `node ${name} is ready`,
      async () => {
        if (!program.running) throw new Error(`the agent ended:\n${program.output.slice(-2_000)}`);
        const { phase = 0, reason, message } = (await nodes.getNode({ bay, name })).node?.status ?? {};
        if (phase === NodePhase.READY) return true;
        throw new Error(`it is ${NodePhase[phase]} ${reason} ${message}`);
      },
      { timeoutMs },
    );
  };
  try {
    if (folder) {
      const join = ['--server', controlPlane.url, '--token', await controlPlane.joinToken(bay), '--bay', bay];
      const command = ownProgram('agent/main.ts', 'join', ...join, '--name', name, ...node, '--enroll-only');
      const outcome = await run(command, { env });
      if (outcome.code !== 0) throw new Error(`the agent could not enrol:\n${outcome.stdout}${outcome.stderr}`);
    }
    await program.start();
    if (waitReady) await ready();
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    bay,
    name,
    dataDir,
    program,
    kill9: () => program.kill(),
    stop: () => program.stop().then(() => undefined),
    start: () => program.start(),
    ready,
    [Symbol.asyncDispose]: dispose,
  };
}
