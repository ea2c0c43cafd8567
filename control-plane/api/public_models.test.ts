import { create } from '@bufbuild/protobuf';
import { Code, createClient } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { BayModelSchema } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import { BayModelService } from '../../proto/gen/baykeeper/v1/bay_model_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { ExplainService, Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { WatchEventType } from '../../proto/gen/baykeeper/v1/watch_pb.js';
import { type ApiFixture, startApi } from '../../test/harness/api_fixture.ts';
import { refused } from '../../test/harness/refused.ts';
import { encode, newRecord } from '../domain/record.ts';
import { isPublic } from './public_models.ts';

function clientsOf(api: ApiFixture, token: string, project = '') {
  const transport = api.transport({ token, project });
  return {
    bays: createClient(BayService, transport),
    models: createClient(BayModelService, transport),
    explain: createClient(ExplainService, transport),
  };
}

async function fixture(t: ExecutionContext) {
  const api = await startApi();
  t.teardown(() => api[Symbol.asyncDispose]());
  return {
    api,
    admin: clientsOf(api, 'admin-token'),
    red: clientsOf(api, 'red-token'),
    blue: clientsOf(api, 'blue-token'),
  };
}

const model = (name: string, spec: object = {}) => ({ bayModel: { metadata: { name }, spec } });

test('a public model is for every project to read and to make bays of, and for its own to change', async (t) => {
  const { admin, red, blue } = await fixture(t);
  const spec = { public: true, containerEngine: ContainerEngine.KUBERNETES };
  const { bayModel } = await admin.models.createBayModel(model('shared', spec));
  const uid = bayModel?.metadata?.uid ?? '';
  await blue.models.createBayModel(model('secret'));
  for (const ref of [{ name: 'shared' }, { uid }]) {
    t.is((await red.models.getBayModel(ref)).bayModel?.metadata?.project, 'ops');
    await refused(t, red.models.deleteBayModel(ref), Code.NotFound);
  }
  t.is((await red.explain.why({ kind: Kind.BAY_MODEL, name: 'shared' })).uid, uid);
  await refused(t, red.models.updateBayModel({ bayModel: { metadata: { uid }, spec } }), Code.NotFound);
  const { bay } = await red.bays.createBay({ bay: { metadata: { name: 'b' }, spec: { bayModel: 'shared' } } });
  t.is(bay?.spec?.containerEngine, ContainerEngine.KUBERNETES);
  const tried = { bay: { metadata: { name: 'tried' }, spec: { bayModel: 'shared' } }, validateOnly: true };
  t.is((await red.bays.createBay(tried)).bay?.spec?.containerEngine, ContainerEngine.KUBERNETES);
  await refused(
    t,
    red.bays.createBay({ bay: { metadata: { name: 'c' }, spec: { bayModel: 'secret' } } }),
    Code.InvalidArgument,
    /there is no baymodel "secret"/,
  );

  // Its own of that name goes first.
  await red.models.createBayModel(model('shared', { containerEngine: ContainerEngine.DOCKER }));
  t.is((await red.models.getBayModel({ name: 'shared' })).bayModel?.metadata?.project, 'red');
  const own = await red.bays.createBay({ bay: { metadata: { name: 'd' }, spec: { bayModel: 'shared' } } });
  t.is(own.bay?.spec?.containerEngine, ContainerEngine.DOCKER);
});

test('only an admin says whether a model is public', async (t) => {
  const { api, red } = await fixture(t);
  await refused(t, red.models.createBayModel(model('m', { public: true })), Code.PermissionDenied, /only an admin/);
  await red.models.createBayModel(model('m'));
  await refused(t, red.models.updateBayModel(model('m', { public: true })), Code.PermissionDenied, /has to stay false/);
  const admin = clientsOf(api, 'admin-token', 'red');
  await admin.models.updateBayModel(model('m', { public: true }));
  await refused(t, red.models.updateBayModel(model('m', { image: 'x' })), Code.PermissionDenied, /has to stay true/);
  t.is((await red.models.updateBayModel(model('m', { image: 'x', public: true }))).bayModel?.spec?.image, 'x');
});

test('lists have the own and the public ones, each once, in order, page by page', async (t) => {
  const { admin, red, blue } = await fixture(t);
  for (const name of ['b', 'd', 'f', 'z']) await admin.models.createBayModel(model(name, { public: true }));
  for (const name of ['a', 'd', 'e']) await red.models.createBayModel(model(name));
  for (const name of ['c', 'y']) await blue.models.createBayModel(model(name));
  for (const [orderBy, expected] of [
    ['name', 'a b d d e f z'],
    ['name desc', 'z f e d d b a'],
    ['create_time', 'b d f z a d e'],
  ] as const) {
    for (const pageSize of [1, 2, 3, 100]) {
      const names: string[] = [];
      const uids = new Set<string>();
      for (let pageToken = ''; ; ) {
        const page = await red.models.listBayModels({ orderBy, pageSize, pageToken });
        for (const { metadata } of page.bayModels) {
          names.push(metadata?.name ?? '');
          uids.add(metadata?.uid ?? '');
        }
        pageToken = page.nextPageToken;
        if (!pageToken) break;
      }
      t.is(names.join(' '), expected, `${orderBy}, ${pageSize} at a time`);
      t.is(uids.size, 7);
    }
  }
  const filtered = await red.models.listBayModels({ filter: 'spec.public', pageSize: 2 });
  t.deepEqual(
    filtered.bayModels.map(({ metadata }) => metadata?.name),
    ['b', 'd'],
  );
});

test('a watch tells of public ones, and of what becomes one or is one no more, and of nothing else', async (t) => {
  const { admin, red, blue } = await fixture(t);
  await admin.models.createBayModel(model('shared', { public: true }));
  await blue.models.createBayModel(model('secret'));
  await red.models.createBayModel(model('own'));
  const seen: string[] = [];
  let revision = 0n;
  const events = red.models.watchBayModels({})[Symbol.asyncIterator]();
  const take = async (count: number) => {
    for (; count > 0; count--) {
      const { value } = await events.next();
      const event = value as {
        type: WatchEventType;
        revision: bigint;
        bayModel?: { metadata?: { name: string }; spec?: { image: string } };
      };
      revision = event.revision;
      seen.push(
        `${WatchEventType[event.type]} ${event.bayModel?.metadata?.name ?? ''}${event.bayModel?.spec?.image ?? ''}`,
      );
    }
    return seen.splice(0);
  };
  t.deepEqual(await take(3), ['ADDED own', 'ADDED shared', 'SYNCED ']);
  const since = revision;
  const change = async () => {
    await blue.models.updateBayModel(model('secret', { image: '-never' }));
    await admin.models.createBayModel(model('private', { image: '-never' }));
    await admin.models.updateBayModel(model('private', { public: true }));
    await admin.models.updateBayModel(model('shared', { image: '-never' }));
    await admin.models.updateBayModel(model('private', { public: true, image: '-new' }));
    await admin.models.deleteBayModel({ name: 'private' });
    await admin.models.deleteBayModel({ name: 'shared' });
    await red.models.deleteBayModel({ name: 'own' });
  };
  await change();
  const expected = ['ADDED private', 'DELETED shared', 'MODIFIED private-new', 'DELETED private-new', 'DELETED own'];
  t.deepEqual(await take(5), expected);

  // The same from a revision on.
  const resumed = red.models.watchBayModels({ sinceRevision: since })[Symbol.asyncIterator]();
  const again: string[] = [];
  for (let i = 0; i < 5; i++) {
    const { value } = await resumed.next();
    again.push(
      `${WatchEventType[value?.type ?? 0]} ${value?.bayModel?.metadata?.name ?? ''}${value?.bayModel?.spec?.image ?? ''}`,
    );
  }
  t.deepEqual(again, expected);
  await Promise.all([events.return?.(), resumed.return?.()]);
});

test('a watch that goes on is told of what is public no more, though what was before is forgotten', async (t) => {
  const { api, admin, red } = await fixture(t);
  await admin.models.createBayModel(model('taken-back', { public: true, image: 'old' }));
  await admin.models.createBayModel(model('kept', { public: true }));
  await admin.models.createBayModel(model('shown-later'));
  await admin.models.createBayModel(model('secret'));
  const { bayModel } = await red.models.createBayModel(model('own'));
  const since = bayModel?.metadata?.revision ?? 0n;
  await api.store.compact(Number(since), 0);
  await admin.models.updateBayModel(model('secret', { image: 'never' }));
  await admin.models.updateBayModel(model('taken-back', { image: 'never' }));
  await admin.models.updateBayModel(model('taken-back', { image: 'never-either' }));
  await admin.models.updateBayModel(model('kept', { public: true, image: 'new' }));
  await admin.models.updateBayModel(model('shown-later', { public: true }));
  await red.models.deleteBayModel({ name: 'own' });
  const told: string[] = [];
  for await (const { type, bayModel } of red.models.watchBayModels({ sinceRevision: since })) {
    told.push(`${WatchEventType[type]} ${bayModel?.metadata?.name} ${bayModel?.spec?.image ?? '-'}`);
    if (bayModel?.metadata?.name === 'own') break;
  }
  t.deepEqual(told, ['DELETED taken-back -', 'MODIFIED kept new', 'ADDED shown-later ', 'DELETED own ']);
});

test('what a large model of one project says is read once for the watchers of all', (t) => {
  const annotations = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`a${i}`, 'x'.repeat(8_000)]));
  const message = create(BayModelSchema, { metadata: { uid: 'u', annotations }, spec: { public: true } });
  const stored = encode('BayModel', message, newRecord('', ''))(1);
  const before = process.cpuUsage();
  for (let i = 0; i < 5_000; i += 1) t.true(isPublic(stored));
  t.true(process.cpuUsage(before).user < 200_000);
});
