import { timestampDate } from '@bufbuild/protobuf/wkt';
import { type Container, ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { type Agent, startAgent } from './agent.ts';
import { type ControlPlane, type ControlPlaneOptions, startControlPlane } from './control_plane.ts';
import { startDockerd, type TestDockerd } from './dockerd.ts';
import { until } from './until.ts';

/** Everything that a user has: a control plane, and bay `local` with one node on an engine of its own. */
export interface Site extends AsyncDisposable {
  readonly dockerd: TestDockerd;
  readonly controlPlane: ControlPlane;
  readonly agent: Agent;
  /** An image with busybox in it. */
  readonly image: string;
  /** Resolves with the container when the control plane says that it is in this phase. */
  inPhase(name: string, phase: ContainerPhase, timeoutMs?: number): Promise<void>;
  /** Resolves when the control plane has no such container any more. */
  gone(name: string, timeoutMs?: number): Promise<void>;
  /** Names of the containers on the engine, running or not. */
  onEngine(): Promise<string[]>;
}

export const image = 'busybox:test';

export async function startSite(options: ControlPlaneOptions = {}): Promise<Site> {
  const stack = new AsyncDisposableStack();
  try {
    const [dockerd, controlPlane] = await Promise.all([
      startDockerd().then((started) => stack.use(started)),
      startControlPlane(options).then((started) => stack.use(started)),
    ]);
    await dockerd.importBusybox(image);
    await controlPlane.createBay('local');
    const agent = stack.use(
      await startAgent({ controlPlane, bay: 'local', name: 'node-1', dockerSocket: dockerd.socketPath }),
    );
    const containers = controlPlane.client(ContainerService);
    const find = async (name: string) => {
      const page = await containers.listContainers({ bay: 'local' });
      return page.containers.find((container) => container.metadata?.name === name);
    };
    const built = stack.move();
    return {
      dockerd,
      controlPlane,
      agent,
      image,
      async inPhase(name, phase, timeoutMs = 30_000) {
        await until(
          `container ${name} is ${ContainerPhase[phase]}`,
          async () => {
            const container = await find(name);
            const { generation } = container?.metadata ?? {};
            const seen = container?.status?.delivery?.observedGeneration;
            if (container?.status?.phase === phase && (phase === ContainerPhase.UNKNOWN || seen === generation))
              return true;
            throw new Error(sightOf(container));
          },
          { timeoutMs },
        );
      },
      async gone(name, timeoutMs = 30_000) {
        await until(
          `container ${name} is gone`,
          async () => {
            const container = await find(name);
            if (container) throw new Error(sightOf(container));
            return true;
          },
          { timeoutMs },
        );
      },
      async onEngine() {
        const list = await dockerd.docker.listContainers({ all: true });
        return list.flatMap(({ Names }) => Names.map((name) => name.replace(/^\//, ''))).sort();
      },
      [Symbol.asyncDispose]: () => built.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

/** All that is known of a container, for a test that waits for something else. */
function sightOf(container: Container | undefined): string {
  if (!container) return 'there is none';
  const { metadata, status } = container;
  const generations = `generation ${metadata?.generation}, observed ${status?.delivery?.observedGeneration}`;
  const deleted = metadata?.deleteTime ? `, deleted at ${timestampDate(metadata.deleteTime).toISOString()}` : '';
  return `it is ${ContainerPhase[status?.phase ?? 0]} ${status?.reason} ${status?.message}, ${generations}${deleted}`;
}
