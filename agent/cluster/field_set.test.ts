import type { JsonObject, JsonValue } from '@bufbuild/protobuf';
import test from 'ava';
import fc from 'fast-check';
import { type FieldSet, leavesNotOwned, owns, pathsOf } from './field_set.ts';

const pod = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'web', namespace: 'default', labels: { app: 'web' }, finalizers: ['a.io/x'] },
  spec: {
    nodeSelector: { disk: 'ssd' },
    containers: [
      {
        name: 'web',
        image: 'web:1',
        args: ['-v', '-x'],
        ports: [{ containerPort: 53 }, { containerPort: 53, protocol: 'UDP' }],
        env: [{ name: 'A', value: '1' }],
      },
    ],
    volumes: [{ name: 'tmp', emptyDir: {} }],
  },
} as const satisfies JsonObject;

/** As a cluster writes it for the pod above. */
const podSet: FieldSet = {
  'f:metadata': {
    'f:labels': { 'f:app': {} },
    'f:finalizers': { 'v:"a.io/x"': {} },
  },
  'f:spec': {
    'f:nodeSelector': { 'f:disk': {} },
    'f:containers': {
      'k:{"name":"web"}': {
        '.': {},
        'f:name': {},
        'f:image': {},
        'f:args': {},
        'f:ports': {
          'k:{"containerPort":53,"protocol":"TCP"}': { '.': {}, 'f:containerPort': {} },
          'k:{"containerPort":53,"protocol":"UDP"}': { '.': {}, 'f:containerPort': {}, 'f:protocol': {} },
        },
        'f:env': { 'k:{"name":"A"}': { '.': {}, 'f:name': {}, 'f:value': {} } },
      },
    },
    'f:volumes': { 'k:{"name":"tmp"}': { '.': {}, 'f:name': {}, 'f:emptyDir': {} } },
  },
};

const without = (set: FieldSet, ...keys: string[]): FieldSet => {
  const copy = structuredClone(set);
  const last = keys.pop() ?? '';
  let node = copy;
  for (const key of keys) node = node[key] as FieldSet;
  delete node[last];
  return copy;
};
const missing = (...sets: FieldSet[]) => leavesNotOwned(pod, sets).map(({ path }) => path);
const container = ['f:spec', 'f:containers', 'k:{"name":"web"}'];

test('nothing is missing where every field is owned', (t) => {
  t.deepEqual(missing(podSet), []);
});

test('whose field was changed by somebody else no longer owns it', (t) => {
  t.deepEqual(missing(without(podSet, ...container, 'f:image')), ['spec.containers[name="web"].image']);
  t.deepEqual(missing(without(podSet, ...container, 'f:args')), ['spec.containers[name="web"].args']);
  t.deepEqual(missing(without(podSet, 'f:metadata', 'f:finalizers')), ['metadata.finalizers']);
  t.deepEqual(missing(without(podSet, 'f:spec', 'f:volumes', 'k:{"name":"tmp"}', 'f:emptyDir')), [
    'spec.volumes[name="tmp"].emptyDir',
  ]);
});

test('an element goes with the node of its key, also when the cluster filled in a part of the key', (t) => {
  const tcp = 'k:{"containerPort":53,"protocol":"TCP"}';
  const udp = 'k:{"containerPort":53,"protocol":"UDP"}';
  t.deepEqual(missing(without(podSet, ...container, 'f:ports', tcp)), [
    'spec.containers[name="web"].ports[0].containerPort',
  ]);
  t.deepEqual(missing(without(podSet, ...container, 'f:ports', udp)), [
    'spec.containers[name="web"].ports[1].containerPort',
    'spec.containers[name="web"].ports[1].protocol',
  ]);
});

test('several sets own together', (t) => {
  const image: FieldSet = { 'f:spec': { 'f:containers': { 'k:{"name":"web"}': { 'f:image': {} } } } };
  t.deepEqual(missing(without(podSet, ...container, 'f:image'), image), []);
});

test('a set without fields owns nothing, and no set neither', (t) => {
  for (const sets of [[], [{}]]) {
    const paths = missing(...sets);
    t.true(paths.includes('spec.containers[name="web"].image') || paths.includes('spec.containers'));
    t.true(paths.includes('metadata.labels.app'));
    t.false(paths.includes('metadata.name'));
  }
});

test('what is owned as a whole is owned with all that is in it', (t) => {
  t.deepEqual(missing({ 'f:metadata': {}, 'f:spec': {} }), []);
});

test('no value and an empty list are nothing that could be lost', (t) => {
  t.deepEqual(leavesNotOwned({ spec: { a: null, b: [], c: 1 } }, [{ 'f:spec': { 'f:c': {} } }]), []);
});

test('no more leaves are looked for than were asked for', (t) => {
  t.is(leavesNotOwned(pod, [], 2).length, 2);
});

test('a leaf is found in the set of who has taken it', (t) => {
  const [leaf] = leavesNotOwned(pod, [without(podSet, ...container, 'f:image')]);
  if (!leaf) throw new Error('no leaf');
  const theirs: FieldSet = { 'f:spec': { 'f:containers': { 'k:{"name":"web"}': { 'f:image': {} } } } };
  t.true(owns(theirs, pod, leaf));
  t.true(owns({ 'f:spec': { 'f:containers': {} } }, pod, leaf));
  t.false(owns({ 'f:spec': { 'f:containers': { 'k:{"name":"db"}': { 'f:image': {} } } } }, pod, leaf));
  t.false(owns({}, pod, leaf));
});

test('the paths of a set are written for people', (t) => {
  const { paths, count } = pathsOf({ ...podSet, 'f:status': { 'f:phase': {} } }, 3, ['status']);
  t.deepEqual(paths, ['metadata.labels.app', 'metadata.finalizers["a.io/x"]', 'spec.nodeSelector.disk']);
  t.is(count, 13);
});

/** A value, and what a cluster notes for its owner. */
interface Owned {
  readonly value: JsonValue;
  readonly set: FieldSet;
}

const names = fc.stringMatching(/^[a-z]{1,4}$/);
const scalar = fc.oneof(fc.string({ maxLength: 3 }), fc.integer(), fc.boolean());
const end = (value: JsonValue): Owned => ({ value, set: {} });

const { owned } = fc.letrec<{ owned: Owned; struct: Owned }>((tie) => ({
  struct: fc.dictionary(names, tie('owned'), { minKeys: 1, maxKeys: 3 }).map((fields) => ({
    value: mapped(fields, ({ value }) => value),
    set: Object.fromEntries(Object.entries(fields).map(([key, { set }]) => [`f:${key}`, set])),
  })),
  owned: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    scalar.map(end),
    fc.constant(end({})),
    // Atomic.
    fc.array(scalar, { minLength: 1, maxLength: 3 }).map(end),
    tie('struct').map(({ value }) => end(value)),
    // A set.
    fc.uniqueArray(fc.string({ maxLength: 3 }), { minLength: 1, maxLength: 3 }).map((items) => ({
      value: items,
      set: Object.fromEntries(items.map((item) => [`v:${JSON.stringify(item)}`, {}])),
    })),
    // A list by name.
    fc.dictionary(names, tie('struct'), { minKeys: 1, maxKeys: 3 }).map((items) => ({
      value: Object.entries(items).map(([name, { value }]) => ({ ...(value as JsonObject), name })),
      set: Object.fromEntries(
        Object.entries(items).map(([name, { set }]) => [
          `k:${JSON.stringify({ name })}`,
          { '.': {}, ...set, 'f:name': {} },
        ]),
      ),
    })),
    // A list by two fields, one of which has a default.
    fc
      .uniqueArray(fc.tuple(fc.integer({ min: 1, max: 3 }), fc.constantFrom('TCP', 'UDP')), {
        selector: String,
        minLength: 1,
        maxLength: 4,
      })
      .chain((items) =>
        fc.array(fc.boolean(), { minLength: items.length, maxLength: items.length }).map((spelled) => ({
          value: items.map(([port, protocol], i) => ({
            port,
            ...((spelled[i] || protocol !== 'TCP') && { protocol }),
          })),
          set: Object.fromEntries(
            items.map(([port, protocol], i) => [
              `k:${JSON.stringify({ port, protocol })}`,
              { '.': {}, 'f:port': {}, ...((spelled[i] || protocol !== 'TCP') && { 'f:protocol': {} }) },
            ]),
          ),
        })),
      ),
  ),
}));
const manifest = fc.record({ spec: owned }).map(({ spec }) => ({
  value: { spec: spec.value } as JsonObject,
  set: { 'f:spec': spec.set } as FieldSet,
}));

const mapped = <A, B>(object: Record<string, A>, change: (value: A) => B): Record<string, B> =>
  Object.fromEntries(Object.entries(object).map(([key, value]) => [key, change(value)]));

/** Every way to an end. */
function ends(set: FieldSet, path: readonly string[] = []): string[][] {
  const keys = Object.keys(set).filter((key) => key !== '.');
  return keys.length === 0 ? [[...path]] : keys.flatMap((key) => ends(set[key] as FieldSet, [...path, key]));
}

/** As a cluster takes a field away: nodes that are left with nothing go with it. */
function take(set: FieldSet, [key = '', ...rest]: readonly string[]): FieldSet | undefined {
  const copy = { ...set };
  const left = rest.length > 0 ? take(copy[key] as FieldSet, rest) : undefined;
  if (left) copy[key] = left;
  else delete copy[key];
  return Object.keys(copy).length > 0 ? copy : undefined;
}

test('whatever the manifest: its own set owns all of it', (t) => {
  fc.assert(
    fc.property(manifest, ({ value, set }) => leavesNotOwned(value, [set]).length === 0),
    { numRuns: 500 },
  );
  t.pass();
});

test('whatever the manifest: divided between two, all of it is owned', (t) => {
  fc.assert(
    fc.property(manifest, fc.infiniteStream(fc.boolean()), ({ value, set }, coins) => {
      const halves: [FieldSet | undefined, FieldSet | undefined] = [set, set];
      for (const path of ends(set)) {
        const half = coins.next().value ? 0 : 1;
        halves[half] = halves[half] && take(halves[half], path);
      }
      return (
        leavesNotOwned(
          value,
          halves.filter((half) => half !== undefined),
        ).length === 0
      );
    }),
    { numRuns: 500 },
  );
  t.pass();
});

test('whatever the manifest: each end that is taken is missed, there and nowhere else', (t) => {
  fc.assert(
    fc.property(manifest, fc.nat(), ({ value, set }, n) => {
      const all = ends(set);
      const path = all[n % all.length] ?? [];
      const left = take(set, path) ?? {};
      const leaves = leavesNotOwned(value, [left]);
      const taken = path.reduceRight<FieldSet>((node, key) => ({ [key]: node }), {});
      t.true(leaves.length > 0, JSON.stringify({ value, left, path }));
      for (const leaf of leaves) {
        t.true(owns(taken, value, leaf), JSON.stringify({ value, path, leaf }));
        t.false(owns(left, value, leaf));
      }
    }),
    { numRuns: 500 },
  );
});
