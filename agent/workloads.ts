import { stat } from 'node:fs/promises';
import { ContainerEngine } from '../proto/gen/baykeeper/v1/container_engine_pb.js';
import type { RunningWorkloads, WorkloadsContext } from './agent.ts';
import type { DockerSide } from './cluster/containers_side.ts';
import type { AgentConfig } from './config.ts';

/** Makes the half of an agent that talks to its bay's engine. */
export type WorkloadsFactory = (context: WorkloadsContext) => RunningWorkloads;

/** Loads what a node of such a bay needs, and nothing else: an agent is to be small. */
export async function loadWorkloads(
  config: AgentConfig,
  engine: ContainerEngine | undefined,
): Promise<WorkloadsFactory> {
  return engine === ContainerEngine.KUBERNETES ? await loadCluster(config) : await loadDocker(config);
}

/** Loads what such a node loads later, if at all. */
export async function loadDeferred(engine: ContainerEngine | undefined): Promise<void> {
  if (engine !== ContainerEngine.KUBERNETES) return;
  await Promise.all([import('./drivers/kubernetes/exec_socket.ts'), import('./drivers/kubernetes/exec_spdy.ts')]);
}

async function loadDocker(config: AgentConfig): Promise<WorkloadsFactory> {
  const [{ createWorkloads }, { DockerDriver }, { dockerClient }] = await Promise.all([
    import('./containers/loop.ts'),
    import('./drivers/docker.ts'),
    import('./drivers/docker_client.ts'),
  ]);
  return (context) =>
    createWorkloads({ ...context, driver: new DockerDriver({ docker: dockerClient(config.dockerSocket) }) });
}

async function loadCluster(config: AgentConfig): Promise<WorkloadsFactory> {
  const [{ createClusterWorkloads }, { KubernetesDriver }] = await Promise.all([
    import('./cluster/workloads.ts'),
    import('./drivers/kubernetes/driver.ts'),
  ]);
  const { kubeconfig, kubeContext, leaseNamespace } = config;
  // Loaded now rather than when it is needed, as everything that is loaded in the first moments is.
  if (await isThere(config.dockerSocket)) await loadDocker(config);
  return (context) =>
    createClusterWorkloads({
      ...context,
      driver: new KubernetesDriver({ kubeconfig, context: kubeContext, clock: context.clock }),
      docker: dockerSide(config, context),
      leaseNamespace,
    });
}

function dockerSide(config: AgentConfig, context: WorkloadsContext): DockerSide {
  return {
    isThere: () => isThere(config.dockerSocket),
    async version() {
      const [{ DockerDriver }, { dockerClient }] = await Promise.all([
        import('./drivers/docker.ts'),
        import('./drivers/docker_client.ts'),
      ]);
      const { version } = await new DockerDriver({ docker: dockerClient(config.dockerSocket) }).info();
      return version;
    },
    async create(desired) {
      const create = await loadDocker(config);
      return create({ ...context, desired });
    },
  };
}

async function isThere(socket: string): Promise<boolean> {
  try {
    return (await stat(socket)).isSocket();
  } catch {
    return false;
  }
}
