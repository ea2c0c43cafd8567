import test from 'ava';
import { isWithin, parseImage, parseImagePrefix, showImage } from './image_reference.ts';

const image = (text: string) => {
  const parsed = parseImage(text);
  return parsed && showImage(parsed);
};
const within = (text: string, prefix: string): boolean | undefined => {
  const [parsed, top] = [parseImage(text), parseImagePrefix(prefix)];
  return parsed && top && isWithin(parsed, top);
};
const digest = `sha256:${'0a'.repeat(32)}`;

test('a reference reads as an engine reads it', (t) => {
  t.is(image('busybox'), 'docker.io/library/busybox');
  t.is(image('busybox:1.36'), 'docker.io/library/busybox');
  t.is(image(`team/app:1@${digest}`), 'docker.io/team/app');
  t.is(image('index.docker.io/busybox'), 'docker.io/library/busybox');
  t.is(image('Registry.Example.com:5000/a/b__c-d.e'), 'registry.example.com:5000/a/b__c-d.e');
  t.is(image('localhost/app'), 'localhost/app');
  t.is(image('[::1]:5000/app'), '[::1]:5000/app');
});

test('what is no reference, or may be the id of an image, is none', (t) => {
  for (const text of [
    '',
    'a//b',
    'a/../b',
    '/a',
    'a/',
    'a b',
    'A',
    'a:',
    'a@b',
    `a@${digest}@${digest}`,
    'a.b',
    'x.:1/a',
  ]) {
    t.is(image(text), text === 'a.b' ? 'docker.io/library/a.b' : undefined, text);
  }
  for (const text of ['deadbeef', 'DEADBEEF', 'cafe', '0a'.repeat(32), digest, 'sha256:abc'])
    t.is(image(text), undefined, text);
  t.is(image('docker.io/library/cafe'), 'docker.io/library/cafe');
  t.is(image('cafe:1'), 'docker.io/library/cafe');
});

test('a prefix counts in whole parts of a name', (t) => {
  t.true(within('registry.example.com/team/app:1', 'registry.example.com/team'));
  t.true(within('registry.example.com/team', 'registry.example.com/team/'));
  t.true(within('registry.example.com/x', 'registry.example.com'));
  t.true(within('registry:5000/x', 'registry:5000/'));
  t.true(within('localhost:5000/x', 'localhost:5000'));
  t.true(within('busybox', 'docker.io/library'));
  t.true(within('busybox:1', 'busybox'));
  t.true(within('team/app', 'team/'));
  t.true(within('team/app', 'docker.io'));
  t.true(within('team/app', 'docker.io/team'));
  for (const [text, prefix] of [
    ['registry.example.com.evil/team/app', 'registry.example.com'],
    ['registry.example.com.evil/team/app', 'registry.example.com/team'],
    ['registry.example.com:5000/team/app', 'registry.example.com/team'],
    ['evil/registry.example.com/team/app', 'registry.example.com/team'],
    ['registry.example.com/teammate/app', 'registry.example.com/team'],
    ['registry.example.com/team-b/app', 'registry.example.com/team'],
    ['busybox-evil', 'busybox'],
    ['evil.com/library/busybox', 'docker.io/library'],
    ['docker.io.evil.com/library/busybox', 'docker.io'],
    ['team/busybox', 'busybox'],
  ] as const) {
    t.false(within(text, prefix), `${text} in ${prefix}`);
  }
});

test('a prefix has neither tag nor digest', (t) => {
  for (const text of ['', '/', 'a:1', `a@${digest}`, 'registry.example.com/a:1', 'https://registry.example.com', '*'])
    t.is(parseImagePrefix(text), undefined, text);
});
