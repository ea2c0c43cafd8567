import test from 'ava';
import { InvalidArgumentError } from 'commander';
import { parseBytes, parseCount, parseCpu, parseDuration, parseMount, parsePort, parseTime } from './args.ts';
import { UsageError } from './errors.ts';
import { parseSelection, parseTarget } from './kinds.ts';
import { bothFilters, selectorToFilter } from './selector.ts';

test('lengths of time', (t) => {
  for (const [text, ms] of [
    ['30s', 30_000],
    ['1h30m', 5_400_000],
    ['500ms', 500],
    ['1.5h', 5_400_000],
    ['2d', 172_800_000],
    ['5', 5000],
    ['0', 0],
  ] as const) {
    t.is(parseDuration(text), ms, text);
  }
  for (const text of ['', 'x', '5 s', '-1s', '1y', 's'])
    t.throws(() => parseDuration(text), { instanceOf: InvalidArgumentError }, text);
});

test('counts, cores, memory and times', (t) => {
  t.is(parseCount('0'), 0);
  t.is(parseCpu('0.5'), 500n);
  t.is(parseCpu('250m'), 250n);
  t.is(parseBytes('64Mi'), 67_108_864n);
  t.is(parseBytes('1.5Gi'), 1_610_612_736n);
  t.is(parseBytes('500M'), 500_000_000n);
  t.is(parseBytes('123'), 123n);
  t.is(parseTime('2026-11-22T11:46:05Z'), Date.UTC(2026, 10, 22, 11, 46, 5));
  for (const bad of [
    () => parseCount('-1'),
    () => parseCount('1e3'),
    () => parseCpu('0'),
    () => parseCpu('x'),
    () => parseBytes('5Q'),
    () => parseBytes('-5'),
    () => parseTime('yesterday'),
  ]) {
    t.throws(bad, { instanceOf: InvalidArgumentError });
  }
});

test('ports and mounts', (t) => {
  t.deepEqual(parsePort('80'), { hostIp: '', hostPort: 0, containerPort: 80, protocol: 'TCP' });
  t.deepEqual(parsePort('8080:80/udp'), { hostIp: '', hostPort: 8080, containerPort: 80, protocol: 'UDP' });
  t.deepEqual(parsePort('127.0.0.1:8080:80'), {
    hostIp: '127.0.0.1',
    hostPort: 8080,
    containerPort: 80,
    protocol: 'TCP',
  });
  t.deepEqual(parsePort('[::1]:8080:80'), { hostIp: '::1', hostPort: 8080, containerPort: 80, protocol: 'TCP' });
  t.deepEqual(parsePort('127.0.0.1::80'), { hostIp: '127.0.0.1', hostPort: 0, containerPort: 80, protocol: 'TCP' });
  for (const text of ['', '0', '70000', '80/icmp', 'a:b', '1:2:3:4', '80:0'])
    t.throws(() => parsePort(text), { instanceOf: InvalidArgumentError }, text);
  t.deepEqual(parseMount('/srv:/data:ro'), { type: 'BIND', source: '/srv', target: '/data', readOnly: true });
  t.deepEqual(parseMount('vol:/data'), { type: 'VOLUME', source: 'vol', target: '/data', readOnly: false });
  for (const text of ['', '/srv', '/srv:data', '/srv:/data:rx', '../x:/data', ':/data', '/a:/b:ro:x'])
    t.throws(() => parseMount(text), { instanceOf: InvalidArgumentError }, text);
});

test('selectors of labels', (t) => {
  t.is(selectorToFilter('a=b'), '("a" in labels && labels["a"] == "b")');
  t.is(selectorToFilter('a == b , c'), '("a" in labels && labels["a"] == "b") && "c" in labels');
  t.is(selectorToFilter('a!=b'), '!("a" in labels && labels["a"] == "b")');
  t.is(
    selectorToFilter('x.io/a in (b, c),!d'),
    '("x.io/a" in labels && labels["x.io/a"] in ["b", "c"]) && !("d" in labels)',
  );
  t.is(selectorToFilter('a notin (b)'), '!("a" in labels && labels["a"] in ["b"])');
  t.is(selectorToFilter('a='), '("a" in labels && labels["a"] == "")');
  for (const text of [
    '',
    ',',
    '=b',
    'a=b"',
    'a in b',
    'a in (b',
    'a b',
    'a="x"',
    'a=b || true',
    '"] || true || labels["',
  ]) {
    t.throws(() => selectorToFilter(text), { instanceOf: UsageError }, text);
  }
  t.is(bothFilters('a', ''), 'a');
  t.is(bothFilters('a', 'b || c'), '(a) && (b || c)');
});

test('kinds and names', (t) => {
  t.deepEqual(
    parseSelection(['c,po']).kinds.map((kind) => kind.name),
    ['Container', 'Pod'],
  );
  t.deepEqual(
    parseSelection(['all']).kinds.map((kind) => kind.name),
    ['Container', 'Pod', 'Service', 'ReplicationController'],
  );
  t.deepEqual(
    parseSelection(['bay_model', 'x']).targets.map(({ kind, name }) => [kind.name, name]),
    [['BayModel', 'x']],
  );
  t.deepEqual(
    parseSelection(['no/x', 'svc/y']).targets.map(({ kind, name }) => [kind.name, name]),
    [
      ['Node', 'x'],
      ['Service', 'y'],
    ],
  );
  t.is(parseTarget('web', 'Container').kind.name, 'Container');
  for (const words of [[], ['nope'], ['c,po', 'x'], ['c/'], ['/x'], ['c/x/y'], ['c/x', 'y']])
    t.throws(() => parseSelection(words), { instanceOf: UsageError }, words.join(' '));
  t.throws(() => parseTarget('web'), { instanceOf: UsageError });
});
