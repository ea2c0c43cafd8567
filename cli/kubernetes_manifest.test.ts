import { readdir, readFile } from 'node:fs/promises';
import test from 'ava';
import fc from 'fast-check';
import { Document } from 'yaml';
import type { Pod } from '../proto/gen/baykeeper/v1/pod_pb.js';
import type { ReplicationController } from '../proto/gen/baykeeper/v1/replication_controller_pb.js';
import type { Service } from '../proto/gen/baykeeper/v1/service_pb.js';
import { CliError } from './errors.ts';
import { type ManifestDefaults, parseObjects } from './manifest.ts';
import { parseDocuments } from './manifest_yaml.ts';
import { label } from './objects.ts';

const defaults: ManifestDefaults = { bay: 'local', namespace: '', bayFlag: '', namespaceFlag: '' };

function parse(text: string | Uint8Array, with_: Partial<ManifestDefaults> = {}) {
  const bytes = typeof text === 'string' ? Buffer.from(text) : text;
  return parseDocuments('f.yaml', bytes).flatMap((document) =>
    parseObjects(document, { ...defaults, ...with_ }).map(({ object }) => object),
  );
}

function pod(text: string, with_: Partial<ManifestDefaults> = {}): Pod {
  return parse(text, with_)[0] as Pod;
}

function message(text: string | Uint8Array): string {
  try {
    parse(text);
  } catch (error) {
    if (error instanceof CliError) return error.message;
    throw error;
  }
  return '';
}

const head = 'apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n';
const folder = new URL('../test/journeys/redis/', import.meta.url);

test('the redis example of the early days is taken as it was written', async (t) => {
  const files = (await readdir(folder)).sort();
  const objects = await Promise.all(files.map(async (file) => parse(await readFile(new URL(file, folder)))));
  t.deepEqual(objects.flat().map(label), [
    'replicationcontroller/redis',
    'pod/redis-master',
    'replicationcontroller/redis-sentinel',
    'service/redis-sentinel',
  ]);
  const [redis, master, , sentinels] = objects.flat() as [ReplicationController, Pod, ReplicationController, Service];
  t.deepEqual(master.metadata?.labels, { name: 'redis', 'redis-sentinel': 'true', role: 'master' });
  t.like(master.spec?.manifest, {
    containers: [
      { name: 'master', env: [{ name: 'MASTER', value: 'true' }], ports: [{ containerPort: 6379 }] },
      { name: 'sentinel' },
    ],
    volumes: [{ name: 'data', emptyDir: {} }],
  });
  t.like(redis.spec?.manifest, { replicas: 1, selector: { name: 'redis' } });
  t.deepEqual(sentinels.spec?.manifest, {
    ports: [{ port: 26379, targetPort: 26379 }],
    selector: { 'redis-sentinel': 'true' },
  });
  // As the guide of those days scaled them: sed -i 's/\(replicas: \)1/\1 2/'.
  const text = await readFile(new URL('redis-controller.yaml', folder), 'utf8');
  const [scaled] = parse(text.replace(/(replicas: )1/, '$1 2')) as [ReplicationController];
  t.like(scaled.spec?.manifest, { replicas: 2 });
});

test('what a server wrote is left out; what else metadata has goes on', (t) => {
  const { metadata, spec } = pod(`apiVersion: v1
kind: Pod
metadata:
  name: p
  generateName: p-
  namespace: ns
  labels: {a: b}
  annotations:
    note: kept
    kubectl.kubernetes.io/last-applied-configuration: '{"old": true}'
  uid: 0b0c
  resourceVersion: "17"
  creationTimestamp: "2026-11-22T11:46:05Z"
  deletionTimestamp: null
  generation: 3
  selfLink: /api/v1/x
  managedFields: [{manager: kubectl}]
  finalizers: [example.com/hold]
  ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: c, uid: "1"}]
  newField: {x: 1}
spec: {containers: []}
status: {phase: Running}
`);
  t.like(metadata, { name: 'p', namespace: 'ns', labels: { a: 'b' }, annotations: { note: 'kept' } });
  t.deepEqual(spec?.metadata, {
    generateName: 'p-',
    finalizers: ['example.com/hold'],
    ownerReferences: [{ apiVersion: 'v1', kind: 'ConfigMap', name: 'c', uid: '1' }],
    newField: { x: 1 },
  });
  t.deepEqual(spec?.manifest, { containers: [] });
  t.is(pod(head).spec?.metadata, undefined);
});

test('plain words mean what they mean to kubectl, and in our own kinds what YAML 1.2 says', (t) => {
  const words: [string, unknown][] = [
    ['0644', 420],
    ['0o17', 15],
    ['0x1F', 31],
    ['-0b11', -3],
    ['08', 8],
    ['1_000', 1000],
    ['yes', true],
    ['Off', false],
    ['y', true],
    ['YeS', 'YeS'],
    ['12:30:45', '12:30:45'],
    ['22:22', '22:22'],
    ['2026-11-22', '2026-11-22'],
    ['1.5', 1.5],
    ['1e3', 1000],
    ['1.', 1],
    ['.5', 0.5],
    ['.', '.'],
    ['e5', 'e5'],
    ['_1', '_1'],
    ['1.2.3', '1.2.3'],
    ['0.1Gi', '0.1Gi'],
    ['"yes"', 'yes'],
    ["'0644'", '0644'],
    ['9007199254740991', 9007199254740991],
    ['!!str 5', '5'],
  ];
  for (const [word, value] of words)
    t.deepEqual(pod(`${head}spec: {field: ${word}}`).spec?.manifest, { field: value } as never, word);
  const [old] = parse(`%YAML 1.1\n---\n${head}spec: {a: 2026-11-22, b: 22:22, c: 010}\n`);
  t.deepEqual((old as Pod).spec?.manifest, { a: '2026-11-22', b: '22:22', c: 8 });
  const [both, own] = parse(
    `${head}spec: {a: on, mode: 0400}\n---\napiVersion: baykeeper/v1\nkind: Container\nmetadata: {name: c}\nspec: {image: i, args: [on, 0400x]}\n`,
  );
  t.deepEqual((both as Pod).spec?.manifest, { a: true, mode: 256 });
  t.like(own, { spec: { args: ['on', '0400x'] } });
  t.is(
    message(`${head}spec: {a: [{b: 12345678901234567890}]}`).replace(/ at line.*/, ''),
    'f.yaml, document 1: spec.a[0].b: 12345678901234567890 is a whole number too large to be kept exactly',
  );
});

test('several lines, int or string, merge keys and anchors come through', (t) => {
  const { spec } = pod(`${head}spec:
  base: &base {image: i, num: 1}
  containers:
  - <<: *base
    name: a
    args:
    - |
      first
        second
    - >-
      one
      line
    - "tab\\t\\u00e9"
  ports: [{targetPort: http}, {targetPort: 80}]
`);
  t.deepEqual(spec?.manifest, {
    base: { image: 'i', num: 1 },
    containers: [{ image: 'i', num: 1, name: 'a', args: ['first\n  second\n', 'one line', 'tab\té'] }],
    ports: [{ targetPort: 'http' }, { targetPort: 80 }],
  });
});

test('null means left out, but where it would lose a string', (t) => {
  t.deepEqual(pod(`${head}spec: {a: null, b: {c: ~, d: {}}, e: [null, {f: , g: 1}], h: []}`).spec?.manifest, {
    b: { d: {} },
    e: [null, { g: 1 }],
    h: [],
  });
  t.regex(
    message(`${head}spec: {template: {spec: {nodeSelector: {disk: }}}}`),
    /document 1: spec\.template\.spec\.nodeSelector\.disk: expected a string, and not null: write "" where/,
  );
  t.deepEqual(
    pod('apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: , annotations: null}\n').metadata?.labels,
    {},
  );
});

test('Lists, typed lists and streams of JSON', (t) => {
  const found = parse(`apiVersion: v1
kind: PodList
metadata: {resourceVersion: "5"}
items:
- metadata: {name: a}
- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Service, metadata: {name: s}}]}
`);
  t.deepEqual(found.map(label), ['pod/a', 'service/s']);
  t.deepEqual(parse('apiVersion: v1\nkind: List\nitems: []\n'), []);
  const json = (name: string) =>
    JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name }, x: undefined }, null, 2);
  t.deepEqual(
    parse(
      `${json('a')}\n${json('b')}{"apiVersion":"v1","kind":"Pod","metadata":{"name":"}{"}}`.replace('}{"}', 'c"}'),
    ).map(label),
    ['pod/a', 'pod/b', 'pod/c'],
  );
  t.regex(
    message(`${json('a')}${json('b').replace('"b"', '5')}`),
    /^f\.yaml, document 2: metadata\.name: expected a string/,
  );
  t.regex(message(`{a: '} {'}`), /document 1: apiVersion: missing/);
});

test('generateName makes a name in a create alone', (t) => {
  const text = 'apiVersion: v1\nkind: Pod\nmetadata: {generateName: job-}\n';
  const name = pod(text, { generateNames: true }).metadata?.name ?? '';
  t.regex(name, /^job-[a-z0-9]{5}$/);
  t.not(name, pod(text, { generateNames: true }).metadata?.name);
  t.is(pod(text.replace('job-', 'x'.repeat(80)), { generateNames: true }).metadata?.name.length, 63);
  t.regex(
    message(text),
    /metadata\.generateName: makes a new object each time, so it goes with `bayctl create -f` alone/,
  );
});

test('every error has file, document and path', (t) => {
  const cases: [string | Uint8Array, RegExp][] = [
    [`${head}spec: []`, /^f\.yaml, document 1: spec: expected a mapping, and not a list$/],
    [`${head}spec: hello`, /spec: expected a mapping, and not "hello"/],
    ['apiVersion: v1\nkind: Pod\nmetadata: [a]', /metadata: expected a mapping, and not a list/],
    [
      'apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: 1}}',
      /metadata\.labels\.a: expected a string, and not 1: put it in quotes, "1"/,
    ],
    [
      'apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: yes}}',
      /metadata\.labels\.a: expected a string, and not true/,
    ],
    [
      'apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: null}}',
      /metadata\.labels\.a: expected a string, and not null/,
    ],
    [
      'apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: x}',
      /metadata\.labels: expected a mapping|metadata\.labels: /,
    ],
    ['apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: [x]}', /metadata\.annotations: /],
    ['apiVersion: v1\nkind: Pod\nmetadata: {name: 5}', /metadata\.name: expected a string, and not 5/],
    ['apiVersion: v1\nkind: Pod', /metadata\.name: missing/],
    [`${head}speck: {}`, /speck: unknown field; known are apiVersion, kind, metadata, spec, status/],
    [`${head}spec: {a: [1, {b: c, b: d}]}`, /document 1: spec\.a\[1\]\.b: is there twice \(line 4, column 22\)/],
    [`{"apiVersion": "v1", "kind": "Pod", "spec": {"a": 1, "a": 2}}`, /spec\.a: is there twice/],
    [`${head}---\n${head}spec:\n  a: [1,\n`, /^f\.yaml, document 2: spec\.a/],
    [`${head}spec: {a: .inf}`, /spec\.a: Infinity is not a number that JSON has/],
    [`${head}spec: {a: *none}`, /document 1: /],
    ['apiVersion: v1\nkind: List\nitem: []', /item: unknown field; known are apiVersion, kind, metadata, items/],
    ['apiVersion: v1\nkind: PodList\nitems: {}', /items: expected a list/],
    [
      'apiVersion: batch/v1\nkind: Job',
      /kind: Job \(batch\/v1\) is not supported: Pod, Service, ReplicationController/,
    ],
    [Buffer.from([...Buffer.from(head), 0xc3, 0x28]), /f\.yaml: is not UTF-8/],
    [
      `${head}spec: {containers: [{name: a, env: [{name: X, value: ${'x'.repeat(2_000_000)}}]}]}`,
      /document 1: spec\.containers\[0\]\.env\[0\]\.value: too large: the object has 20\d+ bytes, and may have 524288/,
    ],
  ];
  for (const [text, expected] of cases) t.regex(message(text), expected, String(text).slice(0, 100));
  t.regex(
    message(`${head}spec: {a: ${'b'.repeat(10)}, many: [${`{x: ${'y'.repeat(60)}},`.repeat(9_000)}]}`),
    /document 1: spec\.many: too large/,
  );
});

test('bombs of any kind are refused at once, with their path', (t) => {
  const level = (n: number) => String.fromCharCode(97 + n);
  const lists = Array.from(
    { length: 20 },
    (_, n) => `  ${level(n)}: &${level(n)} [${n ? Array(10).fill(`*${level(n - 1)}`) : 'x'}]`,
  );
  t.regex(
    message(`${head}spec:\n${lists.join('\n')}\n`),
    /document 1: spec\.d\[3\]: aliases that stand for more than 1000/,
  );
  const merges = Array.from(
    { length: 20 },
    (_, n) => `  ${level(n)}: &${level(n)} {${n ? `<<: [${Array(10).fill(`*${level(n - 1)}`)}]` : 'x: y'}}`,
  );
  t.regex(
    message(`${head}spec:\n${merges.join('\n')}\n`),
    /document 1: spec\.\w\.<<\[\d\]: aliases that stand for more than 1000/,
  );
  t.regex(message(`${head}spec: &a {b: *a}`), /document 1: /);
});

test('whatever JSON a spec is, it arrives unharmed, from JSON and from YAML', (t) => {
  const value = fc.jsonValue({ maxDepth: 4 }).filter((spec) => !JSON.stringify(spec).includes('null'));
  const mapping = fc.dictionary(
    fc.string({ minLength: 1 }).filter((key) => !['labels', 'annotations', '__proto__'].includes(key)),
    value,
  );
  fc.assert(
    fc.property(mapping, (generated) => {
      // JSON knows no -0, and no whole number past 2^53 that is exact.
      const spec = JSON.parse(JSON.stringify(generated), (_, item) =>
        typeof item === 'number' && !Number.isSafeInteger(Math.trunc(item)) ? 1 : item,
      );
      const whole = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'p' }, spec };
      t.deepEqual(pod(JSON.stringify(whole)).spec?.manifest, spec);
      // The writer leaves these without quotes; to a cluster, and here, they are numbers then.
      fc.pre(!/"[-+]?0[XOBo]/.test(JSON.stringify(spec)));
      t.deepEqual(pod(new Document(whole, { version: '1.1' }).toString()).spec?.manifest, spec);
    }),
    { numRuns: 300 },
  );
});
