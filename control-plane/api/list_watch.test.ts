import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { BayPhase } from '../../proto/gen/baykeeper/v1/bay_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService, type WatchContainersResponse } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { DeliverySchema } from '../../proto/gen/baykeeper/v1/delivery_pb.js';
import { ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { WatchEventType } from '../../proto/gen/baykeeper/v1/watch_pb.js';
import { type ApiFixture, startApi } from '../../test/harness/api_fixture.ts';
import { refused } from '../../test/harness/refused.ts';
import { until } from '../../test/harness/until.ts';

async function fixture(t: ExecutionContext, count = 0) {
  const api = await startApi();
  t.teardown(() => api[Symbol.asyncDispose]());
  const transport = api.transport();
  const bays = createClient(BayService, transport);
  const { bay } = await bays.createBay({ bay: { metadata: { name: 'local' } } });
  const bayUid = bay?.metadata?.uid ?? '';
  const manifests = createClient(ManifestService, transport);
  for (let i = 0; i < count; i += 1000) {
    await manifests.apply({
      manifests: Array.from({ length: Math.min(1000, count - i) }, (_, j) => ({
        object: { case: 'container' as const, value: web(`web-${String(i + j).padStart(5, '0')}`, (i + j) % 3) },
      })),
    });
  }
  const containers = createClient(ContainerService, transport);
  return { api, bays, bayUid, manifests, containers, nodes: createClient(NodeService, transport) };
}

const web = (name: string, tier = 0, namespace = '') => ({
  metadata: { bay: 'local', name, namespace, labels: { tier: `t${tier}` } },
  spec: { image: 'busybox', env: [{ name: 'TIER', value: `${tier}` }], ports: [{ containerPort: 80 + tier }] },
});
const namesOf = (page: { containers: { metadata?: { name: string } }[] }) =>
  page.containers.map(({ metadata }) => metadata?.name ?? '');

test('pages lead through a list, each object once, in either order', async (t) => {
  const { containers } = await fixture(t, 25);
  for (const orderBy of ['', 'name', 'name desc', 'create_time', 'create_time desc']) {
    const seen: string[] = [];
    let pageToken = '';
    let revision: bigint | undefined;
    do {
      const page = await containers.listContainers({ bay: 'local', pageSize: 7, pageToken, orderBy });
      revision ??= page.revision;
      t.is(page.revision, revision);
      t.true(page.containers.length <= 7);
      seen.push(...namesOf(page));
      pageToken = page.nextPageToken;
    } while (pageToken);
    t.is(new Set(seen).size, 25, orderBy);
    t.is(seen.length, 25);
    if (orderBy.startsWith('name') || !orderBy) {
      const sorted = [...seen].sort();
      t.deepEqual(seen, orderBy.endsWith('desc') ? sorted.reverse() : sorted);
    }
  }
});

test('a page token that is garbage, or of another list, is refused by name', async (t) => {
  const { containers } = await fixture(t, 5);
  const { nextPageToken } = await containers.listContainers({ bay: 'local', pageSize: 2 });
  t.not(nextPageToken, '');
  const list = (request: object) => containers.listContainers({ bay: 'local', ...request });
  for (const pageToken of [
    'garbage',
    '!!',
    Buffer.from('[1,2]').toString('base64url'),
    `${nextPageToken}x`,
    'bnVsbA',
  ]) {
    await refused(t, list({ pageToken }), Code.InvalidArgument, /page_token/);
  }
  await refused(
    t,
    list({ pageToken: nextPageToken, orderBy: 'name desc' }),
    Code.InvalidArgument,
    /page_token.*another list/,
  );
  await refused(t, list({ pageToken: nextPageToken, filter: 'true' }), Code.InvalidArgument, /page_token/);
  await refused(t, list({ orderBy: 'phase' }), Code.InvalidArgument, /order_by/);
  await refused(t, list({ pageSize: -1 }), Code.InvalidArgument, /page_size/);
});

test('filters look at metadata, labels, spec and status', async (t) => {
  const { containers } = await fixture(t, 30);
  const count = async (filter: string) =>
    (await containers.listContainers({ bay: 'local', filter, pageSize: 1000 })).containers.length;
  t.is(await count('labels.tier == "t1"'), 10);
  t.is(await count('"tier" in labels && labels["tier"] != "t1"'), 20);
  t.is(await count('labels.nothing == "x"'), 0);
  t.is(await count('metadata.name.startsWith("web-0000")'), 10);
  t.is(await count('spec.restart_policy == "ALWAYS" && spec.restartPolicy != "NEVER"'), 30);
  t.is(await count('status.phase == "PENDING" && metadata.generation == 1'), 30);
  t.is(await count('spec.ports.exists(p, p.container_port == 82)'), 10);
  t.is(await count('has(status.exit_code)'), 0);
  t.is(await count('metadata.create_time > timestamp("2020-01-01T00:00:00Z")'), 30);
  t.is(await count('spec.stop_timeout == duration("10s")'), 30);
  t.is(await count('metadata.name.matches("^web-0000[0-4]$")'), 5);
});

test('a filter pages as well, over the objects that match', async (t) => {
  const { containers } = await fixture(t, 30);
  const filter = 'labels.tier == "t2"';
  const seen: string[] = [];
  let pageToken = '';
  do {
    const page = await containers.listContainers({ bay: 'local', pageSize: 4, pageToken, filter });
    seen.push(...namesOf(page));
    pageToken = page.nextPageToken;
  } while (pageToken);
  t.is(seen.length, 10);
});

test('a filter that is none, is wrong or costs too much is refused with its place', async (t) => {
  const { containers } = await fixture(t, 1);
  const cases: [string, RegExp][] = [
    ['labels.tier == ', /filter: cannot be understood at character/],
    ['nonsense == 1', /"nonsense" is not known.*character 1/],
    ['spec.imagge == "x"', /no field "imagge" in ContainerSpec/],
    ['status.phase == "RUNING"', /phase is one of.*"RUNNING"/],
    ['metadata.name', /must be true or false/],
    ['foo(1)', /"foo" is not a function/],
    ['spec.ports.exists(p, spec.env.exists(e, e.name == "A"))', /inside another/],
    [`${'('.repeat(500)}true${')'.repeat(500)}`, /brackets/],
    [`${'!(-'.repeat(9)}1${')'.repeat(9)}`, /brackets/],
    [`${'1 + '.repeat(200)}1 == 1`, /parts|deeply/],
    [`true${' && true'.repeat(240)}`, /filter/],
  ];
  for (const [filter, message] of cases) {
    await refused(t, containers.listContainers({ bay: 'local', filter }), Code.InvalidArgument, message);
  }
});

/** Reads events in the background. */
function watching(t: ExecutionContext, api: ApiFixture, request: object = {}) {
  const abort = new AbortController();
  const events: WatchContainersResponse[] = [];
  const client = createClient(ContainerService, api.transport());
  let failure: ConnectError | undefined;
  const done = (async () => {
    try {
      for await (const event of client.watchContainers({ bay: 'local', ...request }, { signal: abort.signal }))
        events.push(event);
    } catch (error) {
      failure = ConnectError.from(error);
    }
  })();
  t.teardown(() => abort.abort());
  return {
    events,
    done,
    failure: () => failure,
    has: (what: string, test: (event: WatchContainersResponse) => boolean) => until(what, () => events.find(test)),
    stop: () => abort.abort(),
  };
}
const { ADDED, MODIFIED, DELETED, SYNCED } = WatchEventType;
const brief = (event: WatchContainersResponse) => [event.type, event.container?.metadata?.name ?? ''];

test('a watch gives a snapshot, and then what happens, and resumes after a revision', async (t) => {
  const { api, containers } = await fixture(t, 3);
  const first = watching(t, api);
  const synced = await first.has('synced', ({ type }) => type === SYNCED);
  t.deepEqual(first.events.map(brief), [
    [ADDED, 'web-00000'],
    [ADDED, 'web-00001'],
    [ADDED, 'web-00002'],
    [SYNCED, ''],
  ]);
  await containers.createContainer({ container: web('new') });
  await containers.updateContainer({ container: { ...web('new'), spec: { image: 'other' } } });
  await containers.deleteContainer({ bay: 'local', name: 'new' });
  await first.has('deleted', ({ type }) => type === DELETED);
  const tail = first.events.slice(4);
  t.deepEqual(tail.map(brief), [
    [ADDED, 'new'],
    [MODIFIED, 'new'],
    [DELETED, 'new'],
  ]);
  first.stop();

  const resumed = watching(t, api, { sinceRevision: synced.revision });
  await resumed.has('deleted', ({ type }) => type === DELETED);
  t.deepEqual(resumed.events.slice(0, 3).map(brief), tail.map(brief));
  t.deepEqual(
    resumed.events.slice(0, 3).map(({ revision }) => revision),
    tail.map(({ revision }) => revision),
  );
});

test('a watch from a revision that is not kept says so', async (t) => {
  const { api, containers } = await fixture(t, 3);
  await api.store.compact(api.store.revision, 0);
  const watch = watching(t, api, { sinceRevision: 1n });
  await watch.done;
  t.is(watch.failure()?.code, Code.OutOfRange);
  const future = watching(t, api, { sinceRevision: 10n ** 12n });
  await future.done;
  t.is(future.failure()?.code, Code.OutOfRange);
  t.is((await containers.listContainers({ bay: 'local' })).containers.length, 3);
});

test('what stops matching a filter comes as DELETED, and what begins to as ADDED', async (t) => {
  const { api, containers } = await fixture(t, 3);
  const watch = watching(t, api, { filter: 'labels.tier == "t1"' });
  await watch.has('synced', ({ type }) => type === SYNCED);
  t.deepEqual(watch.events.map(brief), [
    [ADDED, 'web-00001'],
    [SYNCED, ''],
  ]);
  await containers.updateContainer({ container: web('web-00000', 1) });
  await containers.updateContainer({ container: web('web-00001', 2) });
  await containers.updateContainer({ container: web('web-00002', 2) });
  await containers.deleteContainer({ bay: 'local', name: 'web-00000' });
  await watch.has('deleted', (event) => event.type === DELETED && event.container?.metadata?.name === 'web-00000');
  t.deepEqual(watch.events.slice(2).map(brief), [
    [ADDED, 'web-00000'],
    [DELETED, 'web-00001'],
    [DELETED, 'web-00000'],
  ]);
});

test('a watch of one name, or one namespace, gets nothing else', async (t) => {
  const { api, containers } = await fixture(t, 2);
  const named = watching(t, api, { name: 'web-00001' });
  const spaced = watching(t, api, { namespace: 'other' });
  await named.has('synced', ({ type }) => type === SYNCED);
  await spaced.has('synced', ({ type }) => type === SYNCED);
  await containers.createContainer({ container: web('x', 0, 'other') });
  await containers.deleteContainer({ bay: 'local', name: 'web-00001' });
  await named.has('deleted', ({ type }) => type === DELETED);
  await spaced.has('added', ({ type }) => type === ADDED);
  t.deepEqual(named.events.map(brief), [
    [ADDED, 'web-00001'],
    [SYNCED, ''],
    [DELETED, 'web-00001'],
  ]);
  t.deepEqual(spaced.events.map(brief), [
    [SYNCED, ''],
    [ADDED, 'x'],
  ]);
});

test('status reads UNKNOWN everywhere once its node is silent, and as reported when it speaks again', async (t) => {
  const { api, bayUid, bays, containers, nodes } = await fixture(t);
  const { node } = await api.addNode(bayUid, 'n1');
  api.placement.node = node;
  t.is((await bays.getBay({ name: 'local' })).bay?.status?.phase, BayPhase.UNKNOWN);
  api.liveness.set(node.uid, true);
  const { container } = await containers.createContainer({ container: web('web') });
  const uid = container?.metadata?.uid ?? '';
  await api.report(uid, (status) => {
    status.phase = ContainerPhase.RUNNING;
    status.delivery = create(DeliverySchema, { receivedGeneration: 1n, appliedGeneration: 1n, observedGeneration: 1n });
  });
  const watch = watching(t, api);
  await watch.has('synced', ({ type }) => type === SYNCED);
  const bayEvents: (BayPhase | undefined)[] = [];
  const abort = new AbortController();
  t.teardown(() => abort.abort());
  void (async () => {
    for await (const event of bays.watchBays({}, { signal: abort.signal })) bayEvents.push(event.bay?.status?.phase);
  })().catch(() => undefined);
  await until('bay is shown', () => bayEvents.includes(BayPhase.READY));

  const read = async () => (await containers.getContainer({ bay: 'local', name: 'web' })).container;
  const fresh = await read();
  t.is(fresh?.status?.phase, ContainerPhase.RUNNING);
  t.truthy(fresh?.status?.delivery?.confirmTime);
  t.truthy(fresh?.status?.delivery?.trustUntil);

  api.liveness.set(node.uid, false);
  const stale = await read();
  t.is(stale?.status?.phase, ContainerPhase.UNKNOWN);
  t.is(stale?.status?.lastKnownPhase, ContainerPhase.RUNNING);
  t.is(stale?.status?.reason, 'NodeSilent');
  t.regex(stale?.status?.message ?? '', /Node "n1".*RUNNING/);
  t.is(stale?.metadata?.revision, fresh?.metadata?.revision);
  const [listed] = (await containers.listContainers({ bay: 'local', filter: 'status.phase == "UNKNOWN"' })).containers;
  t.is(listed?.status?.phase, ContainerPhase.UNKNOWN);
  const written = await containers.updateContainer({ container: web('web', 2) });
  t.is(written.container?.status?.phase, ContainerPhase.UNKNOWN);
  await watch.has('unknown', (event) => event.container?.status?.phase === ContainerPhase.UNKNOWN);
  await until('bay reads UNKNOWN in its watch', () => bayEvents.includes(BayPhase.UNKNOWN));
  t.is((await nodes.getNode({ bay: 'local', name: 'n1' })).node?.status?.phase, NodePhase.UNKNOWN);

  api.liveness.set(node.uid, true);
  await until('running again', () => watch.events.at(-1)?.container?.status?.phase === ContainerPhase.RUNNING);
  const shown = (await nodes.getNode({ bay: 'local', name: 'n1' })).node?.status;
  t.is(shown?.phase, NodePhase.READY);
  t.is(shown?.usage?.containersRunning, 2);
  t.is(shown?.assignedRevision, 5n);
  api.liveness.set(node.uid, true, false);
  t.is((await nodes.getNode({ bay: 'local', name: 'n1' })).node?.status?.reason, 'EngineUnavailable');
  t.is((await bays.getBay({ name: 'local' })).bay?.status?.phase, BayPhase.DEGRADED);
  // The revisions that events say to resume from never go back.
  const revisions = watch.events.map(({ revision }) => revision);
  t.deepEqual(
    revisions,
    [...revisions].sort((a, b) => Number(a - b)),
  );
  await delay(0);
});

test('a thousand objects come in one page, and no more', async (t) => {
  const { containers } = await fixture(t, 1100);
  const first = await containers.listContainers({ bay: 'local', pageSize: 1000 });
  t.is(first.containers.length, 1000);
  const second = await containers.listContainers({ bay: 'local', pageSize: 1000, pageToken: first.nextPageToken });
  t.is(second.containers.length, 100);
  t.is(second.nextPageToken, '');
  for (const filter of [
    'labels.tier == "t1" && spec.image == "nginx"',
    'spec.env.exists(e, e.name == "X" || e.value == "Y")',
  ]) {
    t.deepEqual((await containers.listContainers({ bay: 'local', pageSize: 1000, filter })).containers, []);
  }
});

test('a page of large objects has fewer of them, and leads on', async (t) => {
  const { containers } = await fixture(t, 0);
  const args = Array.from({ length: 4 }, () => 'x'.repeat(120_000));
  const made = Array.from({ length: 22 }, (_, i) => `large-${i}`).sort();
  await Promise.all(
    made.map((name) =>
      containers.createContainer({ container: { metadata: { bay: 'local', name }, spec: { image: 'a', args } } }),
    ),
  );
  for (const filter of ['', 'spec.image == "a"']) {
    const pages: string[][] = [];
    for (let pageToken = ''; ; ) {
      const page = await containers.listContainers({ bay: 'local', pageSize: 1000, pageToken, filter });
      pages.push(page.containers.map(({ metadata }) => metadata?.name ?? ''));
      pageToken = page.nextPageToken;
      if (!pageToken) break;
    }
    t.deepEqual(
      pages.map(({ length }) => length),
      [18, 4],
      filter,
    );
    t.deepEqual(pages.flat(), made);
  }
});
