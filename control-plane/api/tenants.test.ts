import { create } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService, LogsResponseSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { ExplainService, Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { SystemService } from '../../proto/gen/baykeeper/v1/system_service_pb.js';
import { WatchEventType } from '../../proto/gen/baykeeper/v1/watch_pb.js';
import { type ApiFixture, startApi } from '../../test/harness/api_fixture.ts';
import { refused } from '../../test/harness/refused.ts';

function clientsOf(api: ApiFixture, token: string, project = '') {
  const transport = api.transport({ token, project });
  return {
    bays: createClient(BayService, transport),
    containers: createClient(ContainerService, transport),
    explain: createClient(ExplainService, transport),
    tokens: createClient(JoinTokenService, transport),
    system: createClient(SystemService, transport),
  };
}
type Clients = ReturnType<typeof clientsOf>;

/** Two tenants with objects of the same names. */
async function twoTenants(t: ExecutionContext) {
  const api = await startApi();
  t.teardown(() => api[Symbol.asyncDispose]());
  const fill = async ({ bays, containers, tokens }: Clients, image: string) => {
    const { bay } = await bays.createBay({ bay: { metadata: { name: 'local' } } });
    const { container } = await containers.createContainer({
      container: { metadata: { bay: 'local', name: 'web' }, spec: { image } },
    });
    await tokens.createJoinToken({ bay: 'local' });
    return { bayUid: bay?.metadata?.uid ?? '', uid: container?.metadata?.uid ?? '' };
  };
  const red = clientsOf(api, 'red-token');
  const blue = clientsOf(api, 'blue-token');
  return { api, red, blue, inRed: await fill(red, 'red:1'), inBlue: await fill(blue, 'blue:1') };
}

const ref = { bay: 'local', name: 'web' };

test('a project sees nothing of another, and cannot reach it by its uid', async (t) => {
  const api = await startApi();
  t.teardown(() => api[Symbol.asyncDispose]());
  const [red, blue] = [clientsOf(api, 'red-token'), clientsOf(api, 'blue-token')];
  const { bay } = await red.bays.createBay({ bay: { metadata: { name: 'local' } } });
  const web = { metadata: { bay: 'local', name: 'web' }, spec: { image: 'busybox:latest' } };
  const { container } = await red.containers.createContainer({ container: web });
  await refused(t, blue.bays.getBay({ name: 'local' }), Code.NotFound);
  await refused(t, blue.bays.getBay({ uid: bay?.metadata?.uid }), Code.NotFound);
  t.deepEqual((await blue.bays.listBays({})).bays, []);
  await refused(t, blue.containers.listContainers({ bay: 'local' }), Code.NotFound);
  await blue.bays.createBay({ bay: { metadata: { name: 'local' } } });
  const uid = container?.metadata?.uid ?? '';
  const ref = { bay: 'local', uid };
  await refused(t, blue.containers.getContainer(ref), Code.NotFound);
  await refused(t, blue.containers.deleteContainer({ ...ref, force: true }), Code.NotFound);
  await refused(t, blue.containers.stopContainer(ref), Code.NotFound);
  await refused(
    t,
    blue.containers.updateContainer({ container: { ...web, metadata: { bay: 'local', uid } } }),
    Code.NotFound,
  );
  t.deepEqual((await blue.containers.listContainers({ bay: 'local' })).containers, []);
  await refused(t, blue.bays.deleteBay({ uid: bay?.metadata?.uid, force: true }), Code.NotFound);
  t.is((await red.containers.getContainer(ref)).container?.metadata?.generation, 1n);
});

test('an admin works in the project that the call names', async (t) => {
  const { api } = await twoTenants(t);
  const inRed = clientsOf(api, 'admin-token', 'red');
  const inBlue = clientsOf(api, 'admin-token', 'blue');
  t.is((await inRed.containers.getContainer(ref)).container?.spec?.image, 'red:1');
  t.is((await inBlue.containers.getContainer(ref)).container?.spec?.image, 'blue:1');
  t.deepEqual((await clientsOf(api, 'admin-token').bays.listBays({})).bays, []);
  await inBlue.containers.deleteContainer({ ...ref, force: true });
  await refused(t, inBlue.containers.getContainer(ref), Code.NotFound);
  const me = await inRed.system.whoAmI({});
  t.like(me, { subject: 'ada', project: 'red', role: 'admin' });
});

test('an admin sees every project at once, each object once, and names one by its uid', async (t) => {
  const { api, inRed, inBlue } = await twoTenants(t);
  const all = clientsOf(api, 'admin-token', '-');
  const projects = (objects: readonly { metadata?: { project: string } }[]) =>
    objects.map(({ metadata }) => metadata?.project).sort();
  t.deepEqual(projects((await all.bays.listBays({})).bays), ['blue', 'red']);
  t.deepEqual(projects((await all.containers.listContainers({})).containers), ['blue', 'red']);
  t.deepEqual((await all.tokens.listJoinTokens({})).joinTokens.map(({ project }) => project).sort(), ['blue', 'red']);
  const pages: string[] = [];
  for (let pageToken = ''; ; ) {
    const page = await all.containers.listContainers({ pageSize: 1, pageToken });
    pages.push(...page.containers.map(({ metadata }) => metadata?.uid ?? ''));
    pageToken = page.nextPageToken;
    if (!pageToken) break;
  }
  t.deepEqual(pages.sort(), [inRed.uid, inBlue.uid].sort());
  t.is((await all.containers.getContainer({ uid: inBlue.uid })).container?.spec?.image, 'blue:1');
  t.is((await all.explain.why({ kind: Kind.CONTAINER, uid: inRed.uid })).uid, inRed.uid);

  const watched: (string | undefined)[] = [];
  for await (const { type, container } of all.containers.watchContainers({})) {
    if (type === WatchEventType.SYNCED) break;
    watched.push(container?.metadata?.project);
  }
  t.deepEqual(watched.sort(), ['blue', 'red']);

  await refused(t, all.containers.getContainer({}), Code.InvalidArgument, /^uid: or name is required/);
  await refused(t, all.containers.getContainer(ref), Code.InvalidArgument, /^bay: cannot be given/);
  await refused(t, all.containers.listContainers({ bay: 'local' }), Code.InvalidArgument, /^bay: cannot be given/);
  await refused(t, all.tokens.listJoinTokens({ bay: 'local' }), Code.InvalidArgument, /^bay: cannot be given/);
  await refused(
    t,
    all.containers.deleteContainer({ bay: 'local', uid: inRed.uid }),
    Code.InvalidArgument,
    /x-baykeeper-project: names one project/,
  );
});

test('where every project is asked a name finds the only object that has it, and says where there are several', async (t) => {
  const streamed: string[] = [];
  const api = await startApi({
    streams: {
      async *logs({ objectUid }) {
        streamed.push(objectUid);
        yield create(LogsResponseSchema);
      },
    },
  });
  t.teardown(() => api[Symbol.asyncDispose]());
  const all = clientsOf(api, 'admin-token', '-');
  const uids: string[] = [];
  for (const project of ['blue', 'red']) {
    const { bays, containers } = clientsOf(api, `${project}-token`);
    const { bay } = await bays.createBay({ bay: { metadata: { name: 'local' } } });
    api.placement.node = (await api.addNode(bay?.metadata?.uid ?? '', 'edge-1')).node;
    api.liveness.set(api.placement.node.uid, true);
    for (const name of ['web', `only-${project}`]) {
      const metadata = { bay: 'local', name };
      const { container } = await containers.createContainer({ container: { metadata, spec: { image: 'a' } } });
      if (name !== 'web') uids.push(container?.metadata?.uid ?? '');
    }
  }
  const { container } = await all.containers.getContainer({ name: 'only-red' });
  t.like(container?.metadata, { project: 'red', bay: 'local', uid: uids[1] });
  t.is((await all.explain.why({ kind: Kind.CONTAINER, name: 'only-blue' })).uid, uids[0] ?? '');
  for await (const _ of all.containers.logs({ name: 'only-blue' })) break;
  t.deepEqual(streamed, [uids[0]]);

  const several =
    /^several have this name: container "web" in bay "local" of project blue, container "web" in bay "local" of project red\. Name the project .*--project/;
  await refused(t, all.containers.getContainer({ name: 'web' }), Code.FailedPrecondition, several);
  await refused(t, all.explain.why({ kind: Kind.CONTAINER, name: 'web' }), Code.FailedPrecondition, several);
  await refused(t, all.bays.getBay({ name: 'local' }), Code.FailedPrecondition, /bay "local" of project blue, bay/);
  await refused(
    t,
    all.containers.getContainer({ name: 'none' }),
    Code.NotFound,
    /^there is no container "none" in any project$/,
  );
  await refused(t, all.containers.stopContainer({ name: 'only-red' }), Code.InvalidArgument, /names one project/);
});

test('a watch tells of what its own project does, however much others do beside it', async (t) => {
  const { red, blue, inRed, inBlue } = await twoTenants(t);
  const bays = red.bays.watchBays({})[Symbol.asyncIterator]();
  const containers = red.containers.watchContainers({ bay: 'local' })[Symbol.asyncIterator]();
  for (const events of [bays, containers]) {
    t.is((await events.next()).value?.type, WatchEventType.ADDED);
    t.is((await events.next()).value?.type, WatchEventType.SYNCED);
  }
  for (const [name, tenant] of [
    ['theirs', blue],
    ['ours', red],
  ] as const) {
    await tenant.bays.createBay({ bay: { metadata: { name } } });
    await tenant.containers.createContainer({ container: { metadata: { bay: 'local', name }, spec: { image: name } } });
  }
  t.is((await bays.next()).value?.bay?.metadata?.name, 'ours');
  t.is((await containers.next()).value?.container?.metadata?.name, 'ours');
  await blue.containers.deleteContainer({ bay: 'local', uid: inBlue.uid, force: true });
  await red.containers.deleteContainer({ bay: 'local', uid: inRed.uid, force: true });
  const { value } = await containers.next();
  t.deepEqual([value?.type, value?.container?.metadata?.uid], [WatchEventType.DELETED, inRed.uid]);
  await Promise.all([bays.return?.(), containers.return?.()]);
});

test('a project that cannot be is named as such', async (t) => {
  const { api } = await twoTenants(t);
  for (const project of ['a/b', 'x'.repeat(64), '..', '-a']) {
    await refused(
      t,
      clientsOf(api, 'admin-token', project).bays.listBays({}),
      Code.InvalidArgument,
      /x-baykeeper-project/,
    );
  }
});

test('members and readers have their own project only, whether there is the other or not', async (t) => {
  const { api } = await twoTenants(t);
  for (const token of ['red-token', 'red-reader-token']) {
    t.is((await clientsOf(api, token, 'red').bays.listBays({})).bays.length, 1);
    const messages = new Set<string>();
    for (const project of ['blue', 'nowhere', '-', 'a/b']) {
      const error = await t.throwsAsync(clientsOf(api, token, project).bays.listBays({}), { instanceOf: ConnectError });
      t.is(error.code, Code.PermissionDenied);
      messages.add(error.rawMessage);
    }
    t.is(messages.size, 1);
  }
});

test('a list without a bay is for those who ask every project', async (t) => {
  const { red } = await twoTenants(t);
  await refused(t, red.containers.listContainers({}), Code.InvalidArgument, /^bay: is required/);
  await refused(t, red.containers.getContainer({ name: 'web' }), Code.InvalidArgument, /^bay: is required/);
});

test('no name of a bay leads into a project whose name it continues', async (t) => {
  const principals: Record<string, { subject: string; project: string; role: 'member' }> = {
    one: { subject: 'one', project: 'a/b', role: 'member' },
    two: { subject: 'two', project: 'a', role: 'member' },
  };
  const api = await startApi({ api: { authenticator: { authenticate: ({ token }) => principals[token] } } });
  t.teardown(() => api[Symbol.asyncDispose]());
  const one = clientsOf(api, 'one');
  await one.bays.createBay({ bay: { metadata: { name: 'c' } } });
  t.deepEqual((await one.containers.listContainers({ bay: 'c' })).containers, []);
  await refused(t, clientsOf(api, 'two').containers.listContainers({ bay: 'b/c' }), Code.NotFound);
});
