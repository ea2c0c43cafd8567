import type { ServerResponse } from 'node:http';
import test, { type ExecutionContext } from 'ava';
import {
  type ApiCall,
  failure,
  json,
  type ScriptedKubernetesApi,
  scriptedKubernetesApi,
} from '../../../test/harness/scripted_kubernetes_api.ts';
import { until } from '../../../test/harness/until.ts';
import { systemClock } from '../../clock.ts';
import { type ClusterObject, resourceTypes, type WatchEvent } from '../cluster_driver.ts';
import { anonymous } from './access.ts';
import { Connector } from './connection.ts';
import { ApiClient } from './http.ts';
import { watch } from './watch.ts';

type Answer = (call: ApiCall, response: ServerResponse) => void;

const pod = (name: string, resourceVersion: string) => ({ metadata: { name, resourceVersion } });
const list =
  (resourceVersion: string, names: readonly string[], next = ''): Answer =>
  (_, response) =>
    json(response, 200, { metadata: { resourceVersion, continue: next }, items: names.map((name) => pod(name, '1')) });
const expired: Answer = (_, response) => failure(response, 410, 'Expired', 'too old resource version');
/** A stream with these lines, which then ends in order, breaks, or goes on. */
const stream =
  (lines: readonly object[], then: 'end' | 'break' | 'stay' = 'stay'): Answer =>
  (_, response) => {
    response.writeHead(200);
    response.flushHeaders();
    const text = lines.map((line) => `${JSON.stringify(line)}\n`).join('');
    if (then === 'end') return void response.end(text);
    if (text) response.write(text);
    // A part of the next line is on its way when it breaks.
    if (then === 'break') response.write('{"type":"AD', () => response.socket?.destroy());
  };

/** Watches a server that gives these answers, one after the other; after the last, streams stay silent. */
async function watched(
  t: ExecutionContext,
  answers: readonly Answer[],
  options: { idleMs?: number; labelSelector?: string; random?: number; isKnown?: (version: string) => boolean } = {},
) {
  const left = [...answers];
  const api: ScriptedKubernetesApi = await scriptedKubernetesApi((call, response) =>
    (left.shift() ?? stream([]))(call, response),
  );
  const connector = new Connector({
    find: async () => ({
      source: 'the test',
      server: api.url,
      ca: undefined,
      skipTlsVerify: false,
      tlsServerName: undefined,
      proxyUrl: undefined,
      user: anonymous,
    }),
  });
  const abort = new AbortController();
  const events: WatchEvent<string>[] = [];
  const { idleMs, random = 0, ...selection } = options;
  const reading = (async () => {
    const client = new ApiClient({ connector });
    const transform = ({ metadata }: ClusterObject) => metadata.name;
    const context = { client, clock: systemClock, random: () => random, idleMs };
    for await (const event of watch(context, resourceTypes.Pod, { signal: abort.signal, transform, ...selection })) {
      events.push(event);
    }
  })();
  t.teardown(async () => {
    abort.abort();
    await reading;
    connector.close();
    await api[Symbol.asyncDispose]();
  });
  return {
    api,
    abort,
    reading,
    /** As `put a`, `snapshot a b`. */
    said: () =>
      events.map((event) => {
        if (event.type === 'snapshot') return ['snapshot', ...event.items].join(' ');
        if (event.type === 'down') return `down ${event.error.kind}`;
        return 'item' in event ? `${event.type} ${event.item}` : event.type;
      }),
    /** Parameters of the watches so far. */
    versions: () => api.calls.flatMap(({ query }) => (query.get('watch') ? [query.get('resourceVersion')] : [])),
  };
}

/** As an API server writes it: names before the version, and labels after it. */
const whole = (type: string, name: string, resourceVersion: string, labels = {}) => ({
  type,
  object: {
    kind: 'Pod',
    apiVersion: 'v1',
    metadata: { name, namespace: 'default', uid: `u-${name}`, resourceVersion, labels },
  },
});
const added = (name: string, version: string) => ({ type: 'ADDED', object: pod(name, version) });
const modified = (name: string, version: string) => ({ type: 'MODIFIED', object: pod(name, version) });
const deleted = (name: string, version: string) => ({ type: 'DELETED', object: pod(name, version) });
const bookmark = (version: string) => ({ type: 'BOOKMARK', object: { metadata: { resourceVersion: version } } });

test('a list in chunks, then changes; a stream that ends in order is resumed after the last bookmark', async (t) => {
  const { api, said, versions } = await watched(
    t,
    [
      list('10', ['a', 'b'], 'next'),
      list('10', ['c']),
      stream([added('d', '11'), modified('a', '12'), deleted('b', '13'), bookmark('20')], 'end'),
      stream([added('e', '21')]),
    ],
    { labelSelector: 'x in (1, 2)' },
  );
  await until('all are seen', () => said().length === 5);
  t.deepEqual(said(), ['snapshot a b c', 'put d', 'put a', 'delete b', 'put e']);
  t.deepEqual(versions(), ['10', '20']);
  t.is(api.calls[1]?.query.get('continue'), 'next');
  t.true(api.calls.every(({ query }) => query.get('labelSelector') === 'x in (1, 2)'));
  t.is(api.calls[2]?.query.get('allowWatchBookmarks'), 'true');
});

test('a connection that breaks is resumed after the last change, and nothing is said of it', async (t) => {
  const { said, versions } = await watched(t, [
    list('1', []),
    stream([added('a', '5')], 'break'),
    stream([added('b', '6')]),
  ]);
  await until('all are seen', () => said().length === 3);
  t.deepEqual(said(), ['snapshot', 'put a', 'put b']);
  t.deepEqual(versions(), ['1', '5']);
});

test('a silent connection is replaced', async (t) => {
  const { said, versions } = await watched(t, [list('1', []), stream([added('a', '5')]), stream([added('b', '6')])], {
    idleMs: 200,
  });
  await until('all are seen', () => said().length === 3);
  t.deepEqual(said(), ['snapshot', 'put a', 'put b']);
  t.deepEqual(versions().slice(0, 2), ['1', '5']);
});

test('the API server is to be heard before its silence means anything', async (t) => {
  for (const random of [0, 0.999]) {
    const { api } = await watched(t, [list('1', [])], { random });
    await until('it watches', () => api.calls.length === 2);
    const seconds = Number(api.calls[1]?.query.get('timeoutSeconds'));
    t.true(seconds >= 12 && seconds <= 24, `${seconds} s, of the 30 for which it may be silent`);
  }
});

test('a watch that expired begins anew: in the stream, at its opening, and in the middle of a list', async (t) => {
  const gone = {
    type: 'ERROR',
    object: { kind: 'Status', status: 'Failure', code: 410, reason: 'Expired', message: 'too old' },
  };
  const { said, versions } = await watched(t, [
    list('1', ['a']),
    stream([gone]),
    list('2', ['b']),
    expired,
    list('3', ['lost'], 'next'),
    expired,
    list('4', ['c']),
    stream([added('d', '5')]),
  ]);
  await until('all are seen', () => said().length === 4);
  t.deepEqual(said(), ['snapshot a', 'snapshot b', 'snapshot c', 'put d']);
  t.deepEqual(versions(), ['1', '2', '4']);
});

test('a list that cannot be read in chunks is asked for in one piece', async (t) => {
  const first = list('1', ['a'], 'next');
  const { api, said } = await watched(t, [first, expired, first, expired, first, expired, list('2', ['a', 'b'])]);
  await until('it is seen', () => said().length === 1);
  t.deepEqual(said(), ['snapshot a b']);
  t.deepEqual(
    api.calls.slice(0, 7).map(({ query }) => query.get('limit')),
    ['100', '100', '100', '100', '100', '100', null],
  );
});

test('a server that throttles is waited for as long as it says; then it goes on without a snapshot', async (t) => {
  const throttled: Answer = (_, response) => {
    response.writeHead(429, { 'retry-after': '1' }).end('Too many requests, please try again later.');
  };
  const { said, versions } = await watched(t, [
    list('1', []),
    stream([added('a', '2')], 'end'),
    throttled,
    throttled,
    stream([added('b', '3')]),
  ]);
  const startMs = performance.now();
  await until('all are seen', () => said().length === 5);
  t.deepEqual(said(), ['snapshot', 'put a', 'down throttled', 'up', 'put b']);
  t.deepEqual(versions(), ['1', '2', '2', '2']);
  t.true(performance.now() - startMs > 1_900);
});

test('whoever has no right is told once, and what the words are', async (t) => {
  const forbidden: Answer = (_, response) =>
    failure(response, 403, 'Forbidden', 'pods is forbidden: User "a" cannot list resource "pods"');
  const { api, said } = await watched(t, [forbidden, forbidden, forbidden, list('1', ['a'])]);
  await until('all are seen', () => said().length === 2);
  t.deepEqual(said(), ['down forbidden', 'snapshot a']);
  t.is(api.calls.filter(({ query }) => !query.get('watch')).length, 4);
});

test('after a server was away everything is read anew: it may have been put back to an older state', async (t) => {
  const away: Answer = (_, response) => void response.socket?.destroy();
  const { said, versions } = await watched(t, [
    list('50', ['a']),
    stream([added('b', '51')], 'break'),
    away,
    away,
    list('40', ['a']),
    stream([added('c', '41')]),
  ]);
  await until('all are seen', () => said().length === 5);
  t.deepEqual(said(), ['snapshot a', 'put b', 'down unavailable', 'snapshot a', 'put c']);
  t.deepEqual(versions(), ['50', '51', '40']);
});

test('a server that comes back after one attempt, and that a slow one, was away as well', async (t) => {
  const slowlyAway: Answer = (_, response) => void setTimeout(() => response.socket?.destroy(), 1_200);
  const { said, versions } = await watched(t, [
    list('50', ['a']),
    stream([added('b', '51')], 'break'),
    slowlyAway,
    list('40', ['a']),
    stream([added('c', '41')]),
  ]);
  await until('all are seen', () => said().length === 5);
  t.deepEqual(said(), ['snapshot a', 'put b', 'down unavailable', 'snapshot a', 'put c']);
  t.deepEqual(versions(), ['50', '51', '40']);
});

test('what is no change of an object is not passed over', async (t) => {
  const { said } = await watched(t, [
    list('1', []),
    stream([{ type: 'SURPRISE', object: pod('a', '2') }]),
    stream([{ type: 'ADDED', object: {} }]),
    list('2', ['a']),
  ]);
  await until('all are seen', () => said().length === 3);
  t.deepEqual(said(), ['snapshot', 'down other', 'snapshot a']);
});

test('a line longer than a pod can be is read whole', async (t) => {
  const name = 'x'.repeat(3 << 20);
  const { said } = await watched(t, [list('1', []), stream([added(name, '2')])]);
  await until('it is seen', () => said().length === 2);
  t.is(said()[1]?.length, name.length + 4);
});

test('it ends when it is called off, whatever it is at', async (t) => {
  for (const answers of [[], [list('1', [])], [list('1', []), (() => undefined) as Answer]]) {
    const { abort, reading, api } = await watched(t, answers);
    await until('it waits', () => api.calls.length > answers.length - 1);
    abort.abort();
    await reading;
  }
  t.pass();
});

test('what was put in a version that is known is passed over, and the watch goes on after it', async (t) => {
  const asked: string[] = [];
  const isKnown = (version: string) => {
    asked.push(version);
    return version === '12' || version === '14';
  };
  // Nothing but the object's own version counts, wherever somebody else writes one.
  const labels = { resourceVersion: '12' };
  const { said, versions } = await watched(
    t,
    [
      list('10', []),
      stream(
        [
          whole('ADDED', 'a', '11', labels),
          whole('ADDED', 'b', '12'),
          { type: 'ADDED', object: { metadata: { labels, name: 'c', resourceVersion: '13' } } },
          whole('MODIFIED', 'd', '14'),
        ],
        'end',
      ),
      stream([whole('DELETED', 'b', '14'), whole('MODIFIED', 'e', '15')]),
    ],
    { isKnown },
  );
  await until('all are seen', () => said().length === 5);
  t.deepEqual(said(), ['snapshot', 'put a', 'put c', 'delete b', 'put e']);
  t.deepEqual(asked, ['11', '12', '14', '15']);
  t.deepEqual(versions(), ['10', '14']);
});
