import type { RunningWorkloads, WorkloadsContext } from './agent.ts';
import type { AgentConfig } from './config.ts';
import { createWorkloads as createLoop } from './containers/loop.ts';
import { DockerDriver } from './drivers/docker.ts';
import { dockerClient } from './drivers/docker_client.ts';

/** Puts the engine's half together: the loop, on the driver of this node's engine. */
export function createWorkloads(config: AgentConfig, context: WorkloadsContext): RunningWorkloads {
  const driver = new DockerDriver({ docker: dockerClient(config.dockerSocket) });
  return createLoop({ ...context, driver });
}
