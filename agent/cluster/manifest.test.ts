import type { JsonObject } from '@bufbuild/protobuf';
import test from 'ava';
import fc from 'fast-check';
import { AssignmentOp } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { putAssignment } from '../../test/harness/cluster_bed.ts';
import { manifestOf } from './manifest.ts';

const uid = '0197e1d2-0000-7000-8000-000000000001';
const made = (...[kind, name, manifest, input = {}]: Parameters<typeof putAssignment>) => {
  const found = manifestOf(putAssignment(kind, name, manifest, { uid, ...input }), 'bay-1');
  if (!found) throw new Error('no manifest');
  return found;
};

test("an author's manifest goes through whole, with our labels and the hash added", (t) => {
  const spec: JsonObject = {
    containers: [{ name: 'c', image: 'i', unknownField: { a: [1, null, 'x'] } }],
    another: true,
  };
  const { object, hash, namespace } = made('Pod', 'web', spec, {
    labels: { app: 'web', 'baykeeper.io/uid': 'somebody' },
    annotations: { note: 'n', 'baykeeper.io/applied': 'stale' },
    metadata: { finalizers: ['a/b'], ownerReferences: [] },
  });
  t.is(namespace, 'default');
  t.deepEqual(object, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: 'web',
      namespace: 'default',
      labels: { app: 'web', 'baykeeper.io/uid': uid, 'baykeeper.io/bay': 'bay-1' },
      annotations: { note: 'n', 'baykeeper.io/applied': hash },
      finalizers: ['a/b'],
      ownerReferences: [],
    },
    spec,
  });
  t.regex(hash, /^[0-9a-f]{32}$/);
});

test('what the cluster writes into metadata itself is not applied', (t) => {
  const metadata: JsonObject = {
    uid: 'x',
    resourceVersion: '7',
    creationTimestamp: null,
    generation: 3,
    managedFields: [],
    selfLink: '/x',
    deletionTimestamp: 'now',
    deletionGracePeriodSeconds: 3,
    finalizers: ['kept/x'],
  };
  const { object } = made('Service', 'web', {}, { metadata });
  t.deepEqual(Object.keys(object.metadata as JsonObject).sort(), [
    'annotations',
    'finalizers',
    'labels',
    'name',
    'namespace',
  ]);
});

test('a port gets the protocol that is a part of its key, wherever ports are, and nothing else changes', (t) => {
  const ports: JsonObject[] = [
    { containerPort: 1 },
    { containerPort: 1, protocol: 'UDP' },
    { containerPort: 2, protocol: null },
  ];
  const keyed = [
    { containerPort: 1, protocol: 'TCP' },
    { containerPort: 1, protocol: 'UDP' },
    { containerPort: 2, protocol: 'TCP' },
  ];
  const pod: JsonObject = {
    containers: [{ name: 'a', ports }, { name: 'b' }],
    initContainers: [{ name: 'i', ports }],
    x: 1,
  };
  const keyedPod = {
    containers: [{ name: 'a', ports: keyed }, { name: 'b' }],
    initContainers: [{ name: 'i', ports: keyed }],
    x: 1,
  };
  t.deepEqual(made('Pod', 'web', pod).object.spec, keyedPod);
  const template = { metadata: { labels: {} }, spec: pod };
  t.deepEqual(made('ReplicationController', 'web', { replicas: 1, template }).object.spec, {
    replicas: 1,
    template: { metadata: { labels: {} }, spec: keyedPod },
  });
  t.deepEqual(made('Service', 'web', { ports: [{ port: 80 }] }).object.spec, {
    ports: [{ port: 80, protocol: 'TCP' }],
  });
  for (const odd of [{ ports: 'none' }, { ports: [null, 1, 'x'] }, { ports: { a: 1 } }] as JsonObject[]) {
    t.deepEqual(made('Service', 'web', odd).object.spec, odd);
  }
});

test('the hash is of all that is applied, and of nothing else', (t) => {
  const spec = { ports: [{ port: 80 }], selector: { a: '1', b: '2' } };
  const first = made('Service', 'web', spec);
  t.is(made('Service', 'web', { selector: { b: '2', a: '1' }, ports: [{ port: 80 }] }).hash, first.hash);
  t.is(made('Service', 'web', spec, { generation: 7n, adopt: true, createNamespace: true }).hash, first.hash);
  const others = [
    made('Service', 'web', { ...spec, type: 'NodePort' }),
    made('Service', 'web', spec, { labels: { a: 'b' } }),
    made('Service', 'web', spec, { annotations: { a: 'b' } }),
    made('Service', 'web', spec, { namespace: 'other' }),
    made('Service', 'other', spec),
    made('Pod', 'web', spec),
  ];
  t.is(new Set([first, ...others].map(({ hash }) => hash)).size, others.length + 1);
});

test('the same manifest always has the same hash, whatever is in it', (t) => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (spec) => {
      const shuffled = Object.fromEntries(Object.entries(spec).reverse());
      return made('Pod', 'web', spec as JsonObject).hash === made('Pod', 'web', shuffled as JsonObject).hash;
    }),
  );
  t.pass();
});

test('what is not for the cluster has no manifest', (t) => {
  const assignment = putAssignment('Pod', 'web', {});
  t.is(manifestOf({ ...assignment, spec: { case: undefined }, op: AssignmentOp.DELETE }, 'bay-1'), undefined);
});
