import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import { age, duration, moment } from './age.ts';
import { escapeLine, escapeQuoted, escapeText } from './escape.ts';
import { cut, Table } from './table.ts';

test('ages are written as kubectl does', (t) => {
  const second = 1000;
  const [minute, hour, day] = [60 * second, 3600 * second, 86400 * second];
  const cases: [number, string][] = [
    [-5, '0s'],
    [999, '0s'],
    [45 * second, '45s'],
    [119 * second, '119s'],
    [200 * second, '3m20s'],
    [45 * minute, '45m'],
    [3 * hour + 20 * minute, '3h20m'],
    [20 * hour, '20h'],
    [50 * hour, '2d2h'],
    [30 * day, '30d'],
    [800 * day, '2y70d'],
  ];
  for (const [ms, text] of cases) t.is(duration(ms), text, String(ms));
  t.is(age(undefined, 0), '<unknown>');
  t.is(moment(timestampFromMs(1_000_000), 1_005_000), '1970-01-01T00:16:40Z (5s ago)');
  t.is(moment(timestampFromMs(1_010_000), 1_005_000), '1970-01-01T00:16:50Z (in 5s)');
});

test('columns line up when characters are wide, joined or combined', (t) => {
  const table = new Table([{ title: 'NAME' }, { title: 'N', right: true }, { title: 'LAST' }]);
  t.is(
    table.render([
      ['日本語', '1', 'x'],
      ['é', '10', ''],
      ['👩‍👩‍👧', '3', 'y'],
    ]),
    'NAME      N   LAST\n日本語    1   x\né        10\n👩‍👩‍👧        3   y\n',
  );
});

test('a table never is wider than the terminal', (t) => {
  for (const maxWidth of [1, 5, 12, 30, 60]) {
    const table = new Table([{ title: 'NAME' }, { title: 'IMAGE', shrinks: true }, { title: 'AGE' }], { maxWidth });
    const text = table.render([['a-name-that-is-long', 'registry.example.com/an/image/that/is/longer', '5m']]);
    for (const line of text.trimEnd().split('\n')) t.true(line.length <= maxWidth, `${maxWidth}: ${line}`);
  }
  t.is(cut('日本語', 4), '日…');
  t.is(cut('abc', 3), 'abc');
});

test('what could steer a terminal is shown instead', (t) => {
  const nasty = 'a\u001b[2Jb\u0007\u009bc\u202ed\r\n';
  t.is(escapeLine(nasty), 'a\\e[2Jb\\x07\\x9bc\\u202ed\\r\\n');
  t.is(escapeText('one\ntwo\u001b'), 'one\ntwo\\e');
  t.is(JSON.parse(escapeQuoted(JSON.stringify(nasty))), nasty);
  t.is(escapeQuoted('"\u009b"'), '"\\u009b"');
});
