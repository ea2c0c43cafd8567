import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { type Agent, startAgent } from './agent.ts';
import { bayctl } from './bayctl.ts';
import { type ControlPlane, type ControlPlaneOptions, startControlPlane } from './control_plane.ts';
import { type Kubernetes, type KubernetesOptions, startKubernetes } from './kubernetes/cluster.ts';
import { until } from './until.ts';

/** A control plane, and bay `kube`: a cluster of its own, with one agent or several. */
export interface KubernetesSite extends AsyncDisposable {
  readonly cluster: Kubernetes;
  readonly controlPlane: ControlPlane;
  /** The first of them. */
  readonly agent: Agent;
  readonly agents: readonly Agent[];
  /** Runs bayctl with `-b kube`, and returns what it printed. Rejects when it fails. */
  ctl(command: string, ...args: string[]): Promise<string>;
  /** The same with `-o json`, read. */
  json(command: string, ...args: string[]): Promise<ShownObject>;
}

/** As `bayctl -o json` shows an object, as far as tests look at it. */
export interface ShownObject {
  readonly metadata: { readonly uid: string; readonly name: string; readonly generation: string };
  // biome-ignore lint/suspicious/noExplicitAny: what a test expects of it is the test's to say
  readonly status?: any;
}

export interface KubernetesSiteOptions {
  readonly cluster?: KubernetesOptions;
  readonly controlPlane?: ControlPlaneOptions;
  /** How many agents, `master-1` and on. Default 1. */
  readonly agents?: number;
  /** By what the agents get into the cluster: path of a kubeconfig. Default: the admin's. */
  readonly kubeconfig?: (cluster: Kubernetes) => Promise<string>;
  /** Path of the socket of a Docker engine beside the cluster, for the first agent. Default: there is none. */
  readonly dockerSocket?: (cluster: Kubernetes) => string | undefined;
  /** Environment of the agents. */
  readonly env?: Readonly<Record<string, string>>;
}

export const bay = 'kube';

export async function startKubernetesSite(options: KubernetesSiteOptions = {}): Promise<KubernetesSite> {
  const stack = new AsyncDisposableStack();
  try {
    const cluster = stack.use(await startKubernetes(options.cluster));
    const controlPlane = stack.use(await startControlPlane(options.controlPlane));
    await controlPlane.createBay(bay, ContainerEngine.KUBERNETES);
    const kubeconfig = (await options.kubeconfig?.(cluster)) ?? cluster.kubeconfig;
    const agents: Agent[] = [];
    for (let number = 1; number <= (options.agents ?? 1); number += 1) {
      const name = `master-${number}`;
      const dockerSocket = number === 1 ? options.dockerSocket?.(cluster) : undefined;
      agents.push(stack.use(await startAgent({ controlPlane, bay, name, kubeconfig, dockerSocket, env: options.env })));
    }
    const nodes = controlPlane.client(NodeService);
    await until('an agent leads the bay', async () => {
      const page = await nodes.listNodes({ bay });
      if (page.nodes.some(({ status }) => status?.leader)) return true;
      throw new Error(page.nodes.map(({ status }) => `${NodePhase[status?.phase ?? 0]} ${status?.message}`).join('; '));
    });
    const [agent] = agents;
    if (!agent) throw new Error('a site has an agent');
    const ctl = async (command: string, ...args: string[]) => {
      const { code, stdout, stderr } = await bayctl(controlPlane, [command, '-b', bay, ...args]);
      if (code !== 0) throw new Error(`bayctl ${command} ${args.join(' ')} ended with ${code}:\n${stdout}${stderr}`);
      return stdout;
    };
    const built = stack.move();
    return {
      cluster,
      controlPlane,
      agent,
      agents,
      ctl,
      json: async (command, ...args) => JSON.parse(await ctl(command, '-o', 'json', ...args)) as ShownObject,
      [Symbol.asyncDispose]: () => built.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}
