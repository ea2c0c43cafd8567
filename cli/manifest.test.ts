import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import {
  type Container,
  MountType,
  PortProtocol,
  PullPolicy,
  RestartPolicy,
} from '../proto/gen/baykeeper/v1/container_pb.js';
import type { Pod } from '../proto/gen/baykeeper/v1/pod_pb.js';
import { CliError } from './errors.ts';
import { inOrder, type ManifestDefaults, type ManifestObject, parseObjects } from './manifest.ts';
import { readDocuments } from './manifest_file.ts';
import { parseDocuments } from './manifest_yaml.ts';
import { type AnyObject, label } from './objects.ts';
import { captureIo } from './run_fixture.ts';

const defaults: ManifestDefaults = { bay: 'local', namespace: '', bayFlag: '', namespaceFlag: '' };

function parse(text: string, with_: Partial<ManifestDefaults> = {}) {
  return parseDocuments('f.yaml', Buffer.from(text)).flatMap((document) =>
    parseObjects(document, { ...defaults, ...with_ }),
  );
}

function only(found: ManifestObject | undefined): AnyObject {
  if (!found) throw new Error('nothing was parsed');
  return found.object;
}

function message(text: string | Uint8Array, with_: Partial<ManifestDefaults> = {}): string {
  try {
    const documents = parseDocuments('f.yaml', typeof text === 'string' ? Buffer.from(text) : text);
    documents.flatMap((document) => parseObjects(document, { ...defaults, ...with_ }));
  } catch (error) {
    if (error instanceof CliError) return error.message;
    throw error;
  }
  return '';
}

const head = 'apiVersion: baykeeper/v1\nkind: Container\nmetadata: {name: web}\n';

test('a container in camelCase or snake_case, with enums by short or full name', (t) => {
  const [one] = parse(`${head}spec:
  image: nginx
  restart_policy: on-failure
  pullPolicy: PULL_POLICY_ALWAYS
  stopTimeout: 5s
  ports: [{containerPort: 80, protocol: udp}]
  mounts: [{type: bind, source: /a, target: /b, readOnly: true}]
  env: [{name: A, value: "1"}]
`);
  const { spec, metadata } = only(one) as Container;
  t.like(metadata, { name: 'web', bay: 'local' });
  t.like(spec, { image: 'nginx', restartPolicy: RestartPolicy.ON_FAILURE, pullPolicy: PullPolicy.ALWAYS });
  t.is(spec?.stopTimeout?.seconds, 5n);
  t.is(spec?.ports[0]?.protocol, PortProtocol.UDP);
  t.is(spec?.mounts[0]?.type, MountType.BIND);
});

test('Kubernetes manifests keep their spec as it was written', (t) => {
  const [pod] = parse(`apiVersion: v1
kind: Pod
metadata: {name: p, namespace: ns, uid: x, creationTimestamp: null, labels: {a: b}}
spec:
  containers: [{name: c, image: i, unknownField: {deep: [1, null, 2.5, "x"]}}]
status: {phase: Running}
`);
  const { spec, metadata } = only(pod) as Pod;
  t.like(metadata, { name: 'p', namespace: 'ns', bay: 'local', labels: { a: 'b' } });
  t.deepEqual(spec?.manifest, { containers: [{ name: 'c', image: 'i', unknownField: { deep: [1, null, 2.5, 'x'] } }] });
});

test('several documents, Lists, JSON; models and bays come first', (t) => {
  const objects = parse(`${head}spec: {image: a}
---
# nothing
---
{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {}},
  {"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "r"}}]}
---
apiVersion: baykeeper/v1
kind: Bay
metadata: {name: b}
---
apiVersion: baykeeper/v1
kind: BayModel
metadata: {name: m}
spec: {containerEngine: docker}
`);
  t.deepEqual(
    inOrder(objects).map(({ object }) => label(object)),
    ['baymodel/m', 'bay/b', 'container/web', 'service/s', 'replicationcontroller/r'],
  );
});

test('every error names the file, the document and the path', (t) => {
  const cases: [string, RegExp][] = [
    [`${head}spec: {imagee: x}`, /^f\.yaml, document 1: spec\.imagee: unknown field; known are image, /],
    [`${head}spec: {port: []}`, /spec\.port: unknown field; is ports meant\?/],
    [`${head}spec: {image: 5}`, /spec\.image: expected a string, and not 5: put it in quotes, "5"/],
    [
      `${head}spec: {image: x, env: [{name: A, value: "1"}, {name: B, value: 2}]}`,
      /spec\.env\[1\]\.value: expected a string, and not 2/,
    ],
    [
      `${head}spec: {image: x, restartPolicy: sometimes}`,
      /spec\.restartPolicy: "sometimes" is not one of ALWAYS, ON_FAILURE, NEVER/,
    ],
    [`${head}spec: {image: x, args: hello}`, /spec\.args: expected a list, and not "hello"/],
    [`${head}spec: {image: x, stopTimeout: soon}`, /spec\.stopTimeout: expected a length of time in seconds, as "10s"/],
    [`${head}spec: {image: x, read_only_root: yes}`, /spec\.readOnlyRoot: expected true or false, and not "yes"/],
    [
      `${head}spec: {image: x, restart_policy: never, restartPolicy: never}`,
      /spec\.restartPolicy: given twice, also as restart_policy/,
    ],
    [`${head}spec: {image: x, labels: {a: 1}}`, /spec\.labels\.a: expected a string/],
    [`a: b`, /f\.yaml, document 1: apiVersion: missing/],
    [
      `apiVersion: apps/v1\nkind: Deployment`,
      /document 1: kind: Deployment \(apps\/v1\) is not supported: Pod, Service, ReplicationController \(v1\) are$/,
    ],
    [`apiVersion: v1beta3\nkind: Pod`, /kind: Pod \(v1beta3\) is not supported: Pod, .* \(v1\) are$/],
    [`apiVersion: v1\nkind: Container`, /are; a Container is of baykeeper\/v1$/],
    [`apiVersion: v1\nkind: Secret`, /kind: Secret \(v1\) is not supported/],
    [
      `apiVersion: baykeeper/v1\nkind: Node\nmetadata: {name: x}`,
      /kind: Node \(baykeeper\/v1\) is not supported: BayModel, Bay, /,
    ],
    [`apiVersion: baykeeper/v1\nkind: Container`, /metadata\.name: missing/],
    [`apiVersion: v1\nkind: Pod\nmetadata: {generateName: x-}`, /metadata\.generateName: makes a new object each time/],
    [`apiVersion: v1\nkind: Pod\nmetadata: {name: x}\ndata: {}`, /document 1: data: unknown field/],
    [
      `apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: 5}}]`,
      /document 1: items\[0\]\.metadata\.name: expected a string/,
    ],
    [`${head}---\n- 1`, /document 2: expected an object/],
    [`${head}a: [`, /document 1: /],
    [`${head}spec: {image: a}\nspec: {image: b}`, /document 1: spec: is there twice \(line 5, column 1\)/],
    [`${head}spec: *nope`, /document 1: /],
    [`? {a: b}\n: c`, /a key must be a word/],
    [`a: [{b: {~: c}}]`, /document 1: a\[0\]\.b: a key must be a word/],
    [`${head}spec: {image: .nan}`, /spec\.image: NaN is not a number that JSON has/],
    ['\0', /f\.yaml: holds bytes that text does not have/],
  ];
  for (const [text, expected] of cases) t.regex(message(text), expected, text);
  t.regex(message(Buffer.from([0xff, 0xfe, 0x41])), /f\.yaml: is not UTF-8/);
  t.regex(message(head, { bay: '' }), /metadata\.bay: missing/);
  t.regex(
    message(`apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a}`, { namespaceFlag: 'b' }),
    /metadata\.namespace: "a" is not the namespace of -n: "b"/,
  );
});

test('bombs and heaps are refused', (t) => {
  const bomb = [
    'a: &a [x,x,x,x,x,x,x,x,x,x]',
    ...Array.from({ length: 8 }, (_, index) => {
      const [next, before] = [String.fromCharCode(98 + index), String.fromCharCode(97 + index)];
      return `${next}: &${next} [${Array(10).fill(`*${before}`).join(',')}]`;
    }),
  ].join('\n');
  t.regex(message(bomb), /document 1: c\[8\]: aliases that stand for more than 1000 values/);
  t.regex(message('['.repeat(100_000)), /nested too deeply|document 1/);
  t.regex(message(`${head}spec: ${'{a: '.repeat(300)}1${'}'.repeat(300)}`), /nested too deeply/);
  t.regex(message(Buffer.alloc(17 * 1024 * 1024, 'a')), /larger than 16 MiB/);
  t.is(message(''), '');
});

test('files, folders and stdin', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'bayctl-manifest-'));
  await mkdir(join(dir, 'sub'));
  await writeFile(join(dir, 'b.yml'), 'x: 1');
  await writeFile(join(dir, 'a.json'), '{"x": 2}');
  await writeFile(join(dir, 'note.txt'), 'x: [');
  await writeFile(join(dir, 'sub', 'c.yaml'), 'x: 3');
  const read = async (paths: string[], recursive: boolean, stdin = '') =>
    (await readDocuments(captureIo({ stdin }), { paths, recursive })).map(({ value }) => (value as { x: number }).x);
  t.deepEqual(await read([dir], false), [2, 1]);
  t.deepEqual(await read([dir], true), [2, 1, 3]);
  t.deepEqual(await read(['-', join(dir, 'b.yml')], false, 'x: 9'), [9, 1]);
  await t.throwsAsync(read([join(dir, 'none.yaml')], false), { message: /none\.yaml: there is no such file/ });
  await t.throwsAsync(read(['-'], false, '# nothing\n'), { message: 'no objects in stdin' });
  await rm(dir, { recursive: true });
});

test('no text makes it throw anything but a CliError', (t) => {
  const pieces = fc.array(
    fc.constantFrom(
      head,
      'apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n',
      'spec:',
      ' ',
      '\n',
      '{',
      '}',
      '[',
      ']',
      '&a',
      '*a',
      '<<: ',
      '---\n',
      '"',
      'image: x',
      'null',
      '1',
      '!!binary x',
      '!!set {a}',
      'env:',
      '- ',
      '? ',
      '__proto__: ',
      'constructor: 1',
    ),
    { maxLength: 25 },
  );
  fc.assert(
    fc.property(pieces, (parts) => typeof message(parts.join('')) === 'string'),
    { numRuns: 3000 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => typeof message(bytes) === 'string'),
    { numRuns: 1000 },
  );
  t.pass();
});
