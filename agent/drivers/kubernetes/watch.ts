import type { IncomingMessage } from 'node:http';
import type { V1Status } from '@kubernetes/client-node/dist/gen/models/V1Status.js';
import { Backoff } from '../../backoff.ts';
import { type Clock, pause } from '../../clock.ts';
import type { ClusterObject, ResourceType, WatchEvent, WatchOptions } from '../cluster_driver.ts';
import { ClusterError } from '../cluster_error.ts';
import { jsonLines } from '../json_lines.ts';
import { connectionError, statusObjectError } from './errors.ts';
import type { ApiClient } from './http.ts';
import { readList } from './list.ts';
import { collectionPath, selectors, withQuery } from './paths.ts';

export interface WatchContext {
  readonly client: ApiClient;
  readonly clock: Clock;
  /** In [0, 1). Default `Math.random`. */
  readonly random?: () => number;
  /** How long a connection may be silent: longer than the API server may take to end it in order. Default 30 s. */
  readonly idleMs?: number;
  /**
   * After how long the API server is to end a watch in order; up to twice that. Default 12 s. Its bookmark just before that is how one that hangs, behind
   * a connection that lives, is told from a cluster in which nothing happens: by itself it sends one each minute.
   */
  readonly lifetimeMs?: number;
}

/** Objects are read in small pieces: what counts is the memory that is taken at a time. */
const chunkSize = 100;
/** An object has up to 1.5 MB in etcd's own form, and more in JSON. */
const maxLineChars = 16 << 20;
const baseMs = 250;
/** Trying costs little, and what changed meanwhile waits to be seen. */
const maxMs = 5_000;
const maxRetryAfterMs = 60_000;
/** A stream that lived so long has worked: its end is nobody's fault. */
const settledMs = 1_000;

/**
 * A line of what was put, up to its version, as API servers write it. No name in it can have a quotation mark; what comes in another order is
 * read as a whole.
 */
const versionOfPut =
  /^{"type":"(?:ADDED|MODIFIED)","object":{"kind":"\w+","apiVersion":"[^"\\]*","metadata":{(?:"(?:name|generateName|namespace|selfLink|uid)":"[^"\\]*",)*"resourceVersion":"(\d+)"/;

/** A line of a watch. */
interface Line {
  readonly type?: unknown;
  readonly object?: unknown;
}

/** See ClusterDriver.watch. */
export async function* watch<T>(
  context: WatchContext,
  type: ResourceType,
  options: WatchOptions<T>,
): AsyncGenerator<WatchEvent<T>> {
  const { client, clock, random } = context;
  const { signal, transform = (object) => object as T, isKnown } = options;
  const backoff = new Backoff({ baseMs, maxMs, random });
  /** Where to go on. Undefined: what is known may be wrong, and everything is read anew. */
  let version: string | undefined;
  /** What was said to be wrong; undefined: nothing. */
  let problem: string | undefined;

  while (!signal.aborted) {
    let error: ClusterError | undefined;
    /** An attempt to connect may take long, too: only a stream can have worked. */
    let openedMs = Number.POSITIVE_INFINITY;
    let delivered = false;
    const passOver = (line: string): boolean => {
      const known = isKnown && versionOfPut.exec(line)?.[1];
      if (known === undefined || !isKnown?.(known)) return false;
      version = known;
      delivered = true;
      return true;
    };
    try {
      if (version === undefined) {
        version = yield* snapshot(context, type, options);
        problem = undefined;
      }
      const stream = await openWatch(context, type, options, version);
      openedMs = performance.now();
      if (problem !== undefined) {
        problem = undefined;
        yield { type: 'up' };
      }
      try {
        const lines = jsonLines(stream, { maxLineChars, passOver }) as AsyncIterable<Line>;
        for await (const { type: what, object } of lines) {
          const change = readLine(what, object);
          version = change.resourceVersion;
          delivered = true;
          if (change.type !== 'bookmark') yield { type: change.type, item: transform(change.object) };
        }
      } finally {
        stream.destroy();
      }
    } catch (cause) {
      error = connectionError(cause, client.target);
    }
    if (signal.aborted || error?.kind === 'cancelled') break;

    if (delivered || performance.now() - openedMs > settledMs) backoff.reset();
    if (error?.kind === 'gone') version = undefined;
    // The end of a stream that worked is nothing to speak of, until it cannot be replaced.
    const away = version === undefined || problem !== undefined || backoff.failures > 0 || error?.status !== undefined;
    if (error && error.kind !== 'gone' && away) {
      // While it was away it may have been set back to an older state (a restored backup), in which our version means something else.
      if (error.status === undefined || error.kind === 'unavailable') version = undefined;
      const said = `${error.kind} ${error.message}`;
      if (said !== problem) yield { type: 'down', error };
      problem = said;
    }
    // Also after the end of a stream that worked: many were ended by the same restart.
    await pause(clock, Math.max(backoff.nextMs(), Math.min(error?.retryAfterMs ?? 0, maxRetryAfterMs)), signal);
  }
}

/** All that there is. Returns the version from which to watch on. A generator of its own, so that nothing holds the list afterwards. */
async function* snapshot<T>(
  { client }: WatchContext,
  type: ResourceType,
  { transform = (object) => object as T, ...options }: WatchOptions<T>,
): AsyncGenerator<WatchEvent<T>, string> {
  const { items, resourceVersion } = await readList(client, type, { ...options, transform, chunkSize });
  yield { type: 'snapshot', items, resourceVersion };
  return resourceVersion;
}

/** Rejects with ClusterError. */
async function openWatch<T>(
  { client, random = Math.random, idleMs = 30_000, lifetimeMs = 12_000 }: WatchContext,
  type: ResourceType,
  { signal, ...selection }: WatchOptions<T>,
  resourceVersion: string,
): Promise<IncomingMessage> {
  const query = {
    ...selectors(selection),
    watch: true,
    allowWatchBookmarks: true,
    resourceVersion,
    timeoutSeconds: Math.ceil((lifetimeMs / 1000) * (1 + random())),
  };
  const path = withQuery(collectionPath(type, selection.namespace), query);
  return await client.stream({ method: 'GET', path, plural: type.plural, signal, idleMs });
}

type Change =
  | { readonly type: 'put' | 'delete'; readonly object: ClusterObject; readonly resourceVersion: string }
  | { readonly type: 'bookmark'; readonly resourceVersion: string };

/** Throws ClusterError: what the API server says went wrong, or that it says something else than a watch does. */
function readLine(type: unknown, object: unknown): Change {
  if (type === 'ERROR') throw statusObjectError((object ?? {}) as V1Status);
  const one = object as ClusterObject | null | undefined;
  const resourceVersion = one?.metadata?.resourceVersion;
  if (!one || typeof resourceVersion !== 'string' || resourceVersion === '') {
    throw new ClusterError('other', 'the API server sent something that is no change of an object');
  }
  if (type === 'BOOKMARK') return { type: 'bookmark', resourceVersion };
  if (type === 'ADDED' || type === 'MODIFIED') return { type: 'put', object: one, resourceVersion };
  if (type === 'DELETED') return { type: 'delete', object: one, resourceVersion };
  throw new ClusterError('other', `the API server sent a change of a kind that is not known: ${JSON.stringify(type)}`);
}
