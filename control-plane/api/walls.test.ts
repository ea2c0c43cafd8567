import { Code, createClient } from '@connectrpc/connect';
import test from 'ava';
import { v7 as uuidv7 } from 'uuid';
import { AccessTokenService } from '../../proto/gen/baykeeper/v1/access_token_service_pb.js';
import { BayModelService } from '../../proto/gen/baykeeper/v1/bay_model_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { ExplainService, Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { WatchEventType } from '../../proto/gen/baykeeper/v1/watch_pb.js';
import { type ApiFixture, startApi } from '../../test/harness/api_fixture.ts';
import { refused } from '../../test/harness/refused.ts';
import type { Store, StoredObject, Write } from '../store/port.ts';

/** The projects of all objects that the API gets out of the store, by reads and in writes. */
class Seen {
  readonly projects = new Set<string>();

  readonly #take = (objects: readonly (StoredObject | undefined)[]): void => {
    for (const object of objects) if (object) this.projects.add(object.project);
  };

  wrap(store: Store): Store {
    const take = this.#take;
    const seen: Partial<Store> = {
      async get(key) {
        const object = await store.get(key);
        take([object]);
        return object;
      },
      async list(query) {
        const page = await store.list(query);
        take(page.objects);
        return page;
      },
      async assigned(uid) {
        const set = await store.assigned(uid);
        take(set.objects);
        return set;
      },
      write: <T>(write: Write<T>) =>
        store.write<T>({
          ...write,
          apply: (view) =>
            write.apply({
              ...view,
              get(key) {
                const object = view.get(key);
                take([object]);
                return object;
              },
            }),
        }),
    };
    return new Proxy(store, {
      get(_, name) {
        const own = seen[name as keyof Store];
        if (own) return own;
        const value = Reflect.get(store, name);
        return typeof value === 'function' ? value.bind(store) : value;
      },
    });
  }
}

function clientsOf(api: ApiFixture, token: string, project = '') {
  const transport = api.transport({ token, project });
  return {
    models: createClient(BayModelService, transport),
    bays: createClient(BayService, transport),
    nodes: createClient(NodeService, transport),
    containers: createClient(ContainerService, transport),
    explain: createClient(ExplainService, transport),
    joinTokens: createClient(JoinTokenService, transport),
    accessTokens: createClient(AccessTokenService, transport),
  };
}
type Clients = ReturnType<typeof clientsOf>;

async function* justStart(start: { bay: string; uid: string; command: string[] }) {
  yield { input: { case: 'start' as const, value: start } };
}
async function first<T>(stream: AsyncIterable<T>): Promise<T | undefined> {
  for await (const one of stream) return one;
  return undefined;
}

interface Uids {
  readonly model: string;
  readonly bay: string;
  readonly node: string;
  readonly container: string;
  readonly joinToken: string;
  readonly accessToken: string;
}

/** Every call that names one object, as one by which the caller does not have. */
const calls = (me: Clients, bay: string, uids: Uids): (() => Promise<unknown>)[] => {
  const ref = { bay, uid: uids.container };
  const start = { ...ref, command: ['true'] };
  return [
    () => me.models.getBayModel({ uid: uids.model }),
    () => me.models.updateBayModel({ bayModel: { metadata: { uid: uids.model } } }),
    () => me.models.deleteBayModel({ uid: uids.model }),
    () => me.bays.getBay({ uid: uids.bay }),
    () => me.bays.updateBay({ bay: { metadata: { uid: uids.bay } }, validateOnly: true }),
    () => me.bays.deleteBay({ uid: uids.bay, force: true }),
    () => me.nodes.getNode({ bay, uid: uids.node }),
    () => me.nodes.revokeNode({ bay, uid: uids.node }),
    () => me.nodes.deleteNode({ bay, uid: uids.node, force: true }),
    () => me.containers.getContainer(ref),
    () => me.containers.updateContainer({ container: { metadata: ref, spec: { image: 'mine:1' } } }),
    () => me.containers.deleteContainer(ref),
    () => me.containers.deleteContainer({ ...ref, validateOnly: true }),
    () => me.containers.stopContainer(ref),
    () => me.containers.rebootContainer(ref),
    () => first(me.containers.logs(ref)),
    () => first(me.containers.execute(justStart(start))),
    () => me.explain.why({ ...ref, kind: Kind.CONTAINER }),
    () => me.explain.why({ uid: uids.bay, kind: Kind.BAY }),
    () => me.joinTokens.revokeJoinToken({ id: uids.joinToken }),
    () => me.accessTokens.revokeAccessToken({ id: uids.accessToken }),
  ];
};

test('of what another project has nothing is read, by whichever call it is named', async (t) => {
  const seen = new Seen();
  const api = await startApi({ seenStore: (store) => seen.wrap(store) });
  t.teardown(() => api[Symbol.asyncDispose]());
  const fill = async (them: Clients, bay: string): Promise<Uids> => {
    const { bayModel } = await them.models.createBayModel({ bayModel: { metadata: { name: `${bay}-model` } } });
    const made = await them.bays.createBay({ bay: { metadata: { name: bay } } });
    const bayUid = made.bay?.metadata?.uid ?? '';
    const { node } = await api.addNode(bayUid, 'edge-1');
    api.placement.node = node;
    const { container } = await them.containers.createContainer({
      container: { metadata: { bay, name: 'web' }, spec: { image: `${bay}:1` } },
    });
    const [join, access] = await Promise.all([
      them.joinTokens.createJoinToken({ bay }),
      them.accessTokens.createAccessToken({ role: 1 }),
    ]);
    return {
      model: bayModel?.metadata?.uid ?? '',
      bay: bayUid,
      node: node.uid,
      container: container?.metadata?.uid ?? '',
      joinToken: join.joinToken?.id ?? '',
      accessToken: access.accessToken?.id ?? '',
    };
  };
  const blue = await fill(clientsOf(api, 'admin-token', 'blue'), 'blue');
  const red = await fill(clientsOf(api, 'admin-token', 'red'), 'red');
  const nobodys: Uids = {
    model: uuidv7(),
    bay: uuidv7(),
    node: uuidv7(),
    container: uuidv7(),
    joinToken: '0123456789abcdef',
    accessToken: '0123456789abcdef',
  };
  // An admin in the project that is named stands for a member who may call everything.
  const me = clientsOf(api, 'admin-token', 'red');
  const told = async (uids: Uids) => {
    const messages: string[] = [];
    for (const call of calls(me, 'red', uids)) {
      const error = await t.throwsAsync(call(), undefined, String(call));
      t.regex(error.message, /^\[not_found\]/, String(call));
      messages.push(Object.values(uids).reduce((text, uid) => text.replaceAll(uid, 'UID'), error.message));
    }
    return messages;
  };
  seen.projects.clear();
  const ofTheirs = await told(blue);
  const ofNothing = await told(nobodys);
  t.deepEqual(ofTheirs, ofNothing);
  t.deepEqual([...seen.projects], []);

  for (const call of [
    () => me.bays.getBay({ name: 'blue' }),
    () => me.containers.getContainer({ bay: 'blue', name: 'web' }),
    () => me.containers.listContainers({ bay: 'blue' }),
    () => first(me.containers.watchContainers({ bay: 'blue', name: 'web' })),
  ]) {
    await refused(t, call(), Code.NotFound);
  }
  const names: string[] = [];
  for await (const { type, bay } of me.bays.watchBays({})) {
    if (type === WatchEventType.SYNCED) break;
    names.push(bay?.metadata?.name ?? '');
  }
  t.deepEqual(names, ['red']);
  t.deepEqual([...seen.projects], ['red']);
  // The same calls reach what is the caller's own.
  t.is((await me.containers.getContainer({ bay: 'red', uid: red.container })).container?.spec?.image, 'red:1');
});

test('a watch reads nothing when nodes of others fall silent', async (t) => {
  const seen = new Seen();
  const api = await startApi({ seenStore: (store) => seen.wrap(store) });
  t.teardown(() => api[Symbol.asyncDispose]());
  const nodes: Record<string, string> = {};
  for (const project of ['blue', 'red']) {
    const { bays, containers } = clientsOf(api, `${project}-token`);
    const { bay } = await bays.createBay({ bay: { metadata: { name: 'local' } } });
    const { node } = await api.addNode(bay?.metadata?.uid ?? '', 'edge-1');
    nodes[project] = node.uid;
    api.placement.node = node;
    await containers.createContainer({ container: { metadata: { bay: 'local', name: 'web' }, spec: { image: 'a' } } });
  }
  const red = clientsOf(api, 'red-token');
  const streams = [
    red.bays.watchBays({}),
    red.nodes.watchNodes({ bay: 'local' }),
    red.containers.watchContainers({ bay: 'local' }),
  ].map((stream) => stream[Symbol.asyncIterator]() as AsyncIterator<{ type: WatchEventType }>);
  for (const events of streams) {
    while ((await events.next()).value?.type !== WatchEventType.SYNCED);
  }
  seen.projects.clear();
  for (const project of ['blue', 'red']) api.liveness.set(nodes[project] ?? '', true);
  for (const events of streams) t.is((await events.next()).value?.type, WatchEventType.MODIFIED);
  t.deepEqual([...seen.projects], ['red']);
  await Promise.all(streams.map((events) => events.return?.()));
});
