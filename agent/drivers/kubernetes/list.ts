import type { ClusterObject, ResourceType, Selection } from '../cluster_driver.ts';
import { ClusterError } from '../cluster_error.ts';
import type { ApiClient } from './http.ts';
import { collectionPath, selectors, withQuery } from './paths.ts';

export interface ReadListOptions<T> extends Selection {
  readonly transform: (object: ClusterObject) => T;
  readonly chunkSize: number;
  /** Default: all. */
  readonly atMost?: number;
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

export interface ReadList<T> {
  readonly items: T[];
  readonly resourceVersion: string;
  readonly more: boolean;
}

interface Chunk {
  readonly metadata?: { readonly resourceVersion?: string; readonly continue?: string };
  readonly items?: readonly ClusterObject[] | null;
}

/** How often a list begins anew because the state that it reads was forgotten meanwhile; then it is asked for in one piece. */
const maxRestarts = 2;

/** A list in one consistent state, of which only one chunk is held beside what `transform` keeps. Rejects with ClusterError. */
export async function readList<T>(
  client: ApiClient,
  type: ResourceType,
  { transform, chunkSize, atMost = Number.POSITIVE_INFINITY, signal, timeoutMs, ...selection }: ReadListOptions<T>,
): Promise<ReadList<T>> {
  const path = collectionPath(type, selection.namespace);
  for (let restarts = 0; ; restarts += 1) {
    const items: T[] = [];
    let next: string | undefined;
    try {
      for (;;) {
        const limit = restarts > maxRestarts ? undefined : Math.min(chunkSize, atMost - items.length);
        const query = { ...selectors(selection), limit, continue: next };
        const chunk: Chunk = await client.request({
          method: 'GET',
          path: withQuery(path, query),
          plural: type.plural,
          signal,
          timeoutMs,
        });
        const { resourceVersion, continue: more } = chunk.metadata ?? {};
        if (typeof resourceVersion !== 'string' || !Array.isArray(chunk.items ?? [])) {
          throw new ClusterError('other', 'the API server did not answer with a list');
        }
        for (const item of chunk.items ?? []) if (items.length < atMost) items.push(transform(item));
        if (!more || items.length >= atMost) return { items, resourceVersion, more: Boolean(more) };
        next = more;
      }
    } catch (error) {
      const expired = error instanceof ClusterError && error.kind === 'gone' && next !== undefined;
      if (!expired || restarts > maxRestarts) throw error;
    }
  }
}
