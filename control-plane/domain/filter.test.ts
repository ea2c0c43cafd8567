import { create } from '@bufbuild/protobuf';
import test from 'ava';
import fc from 'fast-check';
import { ContainerPhase, ContainerSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { PodSchema } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { ExhaustedError, InvalidError } from './errors.ts';
import { compileFilter } from './filter.ts';

const web = create(ContainerSchema, {
  metadata: { name: 'web', labels: { tier: 'web', 'app.kubernetes.io/name': 'shop' }, generation: 2n },
  spec: { image: 'nginx:1', env: [{ name: 'A', value: '1' }], labels: { x: 'y' }, resources: { cpuMillis: 500n } },
  status: { phase: ContainerPhase.RUNNING, restarts: 3, exitCode: 0 },
});
const matches = (filter: string) => compileFilter('Container', filter)?.(web);

test('filters see fields by either name, numbers as numbers, enums by short name', (t) => {
  for (const filter of [
    'labels.tier == "web"',
    'labels["app.kubernetes.io/name"] == "shop"',
    'metadata.labels.tier == "web"',
    'status.restarts > 2 && status.restarts + 1 == 4',
    'metadata.generation == 2',
    'spec.resources.cpu_millis >= 500 && spec.resources.cpuMillis < 501',
    'status.phase in ["RUNNING", "PAUSED"]',
    'has(status.exit_code) && status.exit_code == 0',
    '!has(status.start_time)',
    '!has(spec.health_check)',
    'spec.env.exists(e, e.name == "A" && e.value == "1")',
    'spec.env.map(e, e.name) == ["A"]',
    'spec.labels.x == "y"',
    'size(spec.ports) == 0 && size(labels) == 2',
    'labels.exists(k, k.startsWith("app."))',
    'spec.read_only_root == false',
    'spec.user == ""',
    'labels.missing == "x" || true',
    'type(spec.image) == string',
  ]) {
    t.true(matches(filter), filter);
  }
  for (const filter of [
    'labels.missing == "x"',
    '!(labels.missing == "x")',
    'status.start_time > timestamp("2020-01-01T00:00:00Z")',
    'spec.image > 3',
  ]) {
    t.false(matches(filter), filter);
  }
  t.is(matches('  '), undefined);
});

test('a manifest is looked into as its author wrote it', (t) => {
  const pod = create(PodSchema, {
    metadata: { name: 'p' },
    spec: { manifest: { containers: [{ name: 'a', image: 'b' }], n: 1 } },
  });
  const look = (filter: string) => compileFilter('Pod', filter)?.(pod);
  t.true(look('spec.manifest.containers.exists(c, c.image == "b")'));
  t.true(look('spec.manifest.n == 1'));
  t.false(look('spec.manifest.nothing.more == 1'));
});

test('no text makes it fail otherwise than by saying that the filter is wrong, nor takes long', (t) => {
  const words = [
    'labels',
    'spec',
    '.',
    'tier',
    '(',
    ')',
    '[',
    ']',
    '"a"',
    '==',
    '&&',
    '!',
    '-',
    '1',
    'exists',
    ',',
    'x',
    '?',
    ':',
    '{',
    '}',
    "'",
    '\\',
    'r"',
    'b"',
    ' ',
  ];
  const sources = fc.oneof(
    fc.string({ maxLength: 200 }),
    fc.array(fc.constantFrom(...words), { maxLength: 60 }).map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(sources, (source) => {
      const before = process.cpuUsage();
      try {
        compileFilter('Container', source)?.(web);
      } catch (error) {
        t.true(error instanceof InvalidError, String(error));
      }
      t.true(process.cpuUsage(before).user < 1_000_000, source);
    }),
    { numRuns: 2_000 },
  );
});

test('a regular expression of a caller cannot hold up the server', (t) => {
  const object = create(ContainerSchema, { metadata: { name: 'a' }, spec: { image: `${'a'.repeat(500)}!` } });
  const before = process.cpuUsage();
  t.false(compileFilter('Container', 'spec.image.matches("^(a+)+$")')?.(object));
  t.true(process.cpuUsage(before).user < 500_000);
});

const many = Array.from({ length: 10_000 }, (_, i) => String(i % 10));
const pod = create(PodSchema, {
  metadata: { name: 'p', annotations: { text: many.join('') } },
  spec: { manifest: { args: many, lists: many.map(() => ['a']), map: Object.fromEntries(many.entries()) } },
});
/** What takes the square of the size of an object, or the size very often. */
const costly: readonly string[] = [
  'spec.manifest.args.exists(a, "x" in spec.manifest.args)',
  'spec.manifest.args.exists(a, spec.manifest.map == spec.manifest.map) || true',
  `spec.manifest.args.exists(a, ${Array(40).fill('a == "x"').join(' || ')})`,
  `[spec.manifest.args].exists(x, ${Array(40).fill('"x" in x').join(' || ')})`,
  `spec.manifest.lists.exists(l, ${Array(40).fill('"x" in l').join(' || ')})`,
  'spec.manifest.map.exists(k, spec.manifest.map[k] in spec.manifest.args)',
  '"x" in spec.manifest.args.map(a, a)',
  'spec.manifest.args.filter(a, true) == spec.manifest.args.filter(a, true)',
  'metadata.annotations.text.matches("(1|2)*1(1|2){900}[xy]")',
  'spec.manifest.args.exists(a, a.matches("x"))',
];

test('a filter that looks at one large object too often is ended before it holds up the server', (t) => {
  for (const filter of costly) {
    const look = compileFilter('Pod', filter);
    const before = process.cpuUsage();
    t.throws(() => look?.(pod), { instanceOf: ExhaustedError }, filter);
    t.true(process.cpuUsage(before).user < 500_000, filter);
  }
  // Each object is counted for itself.
  const look = compileFilter('Pod', '"x" in spec.manifest.args || size(spec.manifest.map) == 10000');
  for (let i = 0; i < 20; i += 1) t.true(look?.(pod));
});
