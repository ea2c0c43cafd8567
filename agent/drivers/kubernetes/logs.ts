import { type PodLogOptions, type PodRef, resourceTypes } from '../cluster_driver.ts';
import { ClusterError } from '../cluster_error.ts';
import type { EngineOutput, OutputChunk } from '../driver.ts';
import { findContainer } from './containers_of_pod.ts';
import { connectionError } from './errors.ts';
import type { ApiClient } from './http.ts';
import { objectPath, withQuery } from './paths.ts';

/** See ClusterDriver.logs. */
export async function openLogs(client: ApiClient, pod: PodRef, options: PodLogOptions): Promise<EngineOutput> {
  const container = await findContainer(client, pod);
  const { namespace, name } = pod;
  const query = {
    container: container.name,
    follow: options.follow,
    previous: options.previous,
    tailLines: options.tailLines,
    // To the second, and none is to be missed.
    sinceTime:
      options.sinceMs === undefined ? undefined : new Date(Math.floor(options.sinceMs / 1000) * 1000).toISOString(),
    timestamps: options.timestamps,
  };
  const abort = new AbortController();
  const path = withQuery(`${objectPath({ type: resourceTypes.Pod, namespace, name })}/log`, query);
  const response = await openStream(() => client.stream({ method: 'GET', path, plural: 'pods', signal: abort.signal }));
  return {
    chunks: (async function* (): AsyncGenerator<OutputChunk> {
      try {
        for await (const data of response as AsyncIterable<Uint8Array>) yield { stream: 'stdout', data };
      } catch (cause) {
        if (!abort.signal.aborted) throw connectionError(cause, client.target);
      } finally {
        response.destroy();
      }
    })(),
    close: () => abort.abort(),
  };
}

/** The cluster says in prose, with a code of 400, that a container is not there yet. */
async function openStream<T>(open: () => Promise<T>): Promise<T> {
  try {
    return await open();
  } catch (error) {
    const early = /is waiting to start|previous terminated container .* not found|is not available|not running/;
    if (error instanceof ClusterError && error.kind === 'invalid' && early.test(error.message)) {
      throw new ClusterError('not-running', error.message, {
        cause: error,
        status: error.status,
        reason: error.reason,
      });
    }
    throw error;
  }
}
