import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { type Agent, startAgent } from './agent.ts';
import { bayctl } from './bayctl.ts';
import { type ControlPlane, type ControlPlaneOptions, startControlPlane } from './control_plane.ts';
import { type Kubernetes, type KubernetesOptions, startKubernetes } from './kubernetes/cluster.ts';

/** A control plane, and bay `kube`: a cluster of its own, with one agent or several. */
export interface KubernetesSite extends AsyncDisposable {
  readonly cluster: Kubernetes;
  readonly controlPlane: ControlPlane;
  /** The first of them. */
  readonly agent: Agent;
  readonly agents: readonly Agent[];
  /** Runs bayctl with `-b kube`, and returns what it printed. Rejects when it fails. */
  ctl(...args: string[]): Promise<string>;
  /** The same with `-o json`, read. */
  json(...args: string[]): Promise<ShownObject>;
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
  /** Environment of the agents. */
  readonly env?: Readonly<Record<string, string>>;
}

export const bay = 'kube';

export async function startKubernetesSite(options: KubernetesSiteOptions = {}): Promise<KubernetesSite> {
  const stack = new AsyncDisposableStack();
  try {
    const [cluster, controlPlane] = await Promise.all([
      startKubernetes(options.cluster).then((started) => stack.use(started)),
      startControlPlane(options.controlPlane).then((started) => stack.use(started)),
    ]);
    await controlPlane.createBay(bay, ContainerEngine.KUBERNETES);
    const { kubeconfig } = cluster;
    const agents: Agent[] = [];
    for (let number = 1; number <= (options.agents ?? 1); number += 1) {
      const name = `master-${number}`;
      agents.push(stack.use(await startAgent({ controlPlane, bay, name, kubeconfig, env: options.env })));
    }
    const [agent] = agents;
    if (!agent) throw new Error('a site has an agent');
    const ctl = async (...args: string[]) => {
      const { code, stdout, stderr } = await bayctl(controlPlane, [...args, '-b', bay]);
      if (code !== 0) throw new Error(`bayctl ${args.join(' ')} ended with ${code}:\n${stdout}${stderr}`);
      return stdout;
    };
    const built = stack.move();
    return {
      cluster,
      controlPlane,
      agent,
      agents,
      ctl,
      json: async (...args) => JSON.parse(await ctl(...args, '-o', 'json')) as ShownObject,
      [Symbol.asyncDispose]: () => built.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}
