import type { JsonValue } from '@bufbuild/protobuf';
import test from 'ava';
import fc from 'fast-check';
import { UsageError } from '../errors.ts';
import { parseJsonPath } from './jsonpath.ts';

const root: JsonValue = {
  kind: 'List',
  items: [
    {
      metadata: { name: 'a', labels: { 'app.io/tier': 'web' } },
      status: { phase: 'RUNNING', restarts: 2, revision: '10', ports: [80, 443, 8080] },
    },
    { metadata: { name: 'b', labels: {} }, status: { phase: 'FAILED', restarts: 10, revision: '9', ports: [] } },
  ],
};

const cases: readonly (readonly [string, string])[] = [
  ['{.kind}', 'List'],
  ['.kind', 'List'],
  ['kind', 'List'],
  ['{$.kind}', 'List'],
  ['{.items[*].metadata.name}', 'a b'],
  ['{.items[0].metadata.name}', 'a'],
  ['{.items[-1].metadata.name}', 'b'],
  ['{.items[0:1].metadata.name}', 'a'],
  ['{.items[0].status.ports[::2]}', '80 8080'],
  ['{.items[0].status.ports[0,2]}', '80 8080'],
  ['{..name}', 'a b'],
  ['{.items[?(@.status.phase=="FAILED")].metadata.name}', 'b'],
  ['{.items[?(@.status.restarts>5)].metadata.name}', 'b'],
  ['{.items[?(@.status.revision > 9)].metadata.name}', 'a'],
  ["{.items[?(@.status.phase!='FAILED' && @.status.restarts < 3)].metadata.name}", 'a'],
  ['{.items[?(@.status.nope)].metadata.name}', ''],
  ["{.items[0].metadata.labels['app.io/tier']}", 'web'],
  ['{.items[0].metadata.labels.app\\.io/tier}', 'web'],
  ["{.items[0]['metadata','status']['name','phase']}", 'a RUNNING'],
  ['{range .items[*]}{.metadata.name}{"\\t"}{.status.phase}{"\\n"}{end}', 'a\tRUNNING\nb\tFAILED\n'],
  ['{range .items[*]}{.metadata.name}:{range .status.ports[*]} {@}{end};{end}', 'a: 80 443 8080;b:;'],
  ['names: {.items[*].metadata.name}!', 'names: a b!'],
  ['{.items[0].status.ports}', '[80,443,8080]'],
  ['{.missing.at.all}', ''],
  ['{.items[?(@.status.restarts==010)].metadata.name}', 'b'],
  ['{"it is a {brace}"}', 'it is a {brace}'],
];

for (const [template, expected] of cases) {
  test(`jsonpath ${template}`, (t) => {
    t.is(parseJsonPath(template).render(root), expected);
  });
}

for (const template of [
  '',
  '{',
  '{.a',
  '{.items[}',
  '{.items[?(@.x==)]}',
  '{range .items[*]}',
  '{end}',
  '{"open}',
  '{.a[1:2:0]}',
  '{.}x{',
]) {
  test(`jsonpath refuses ${template}`, (t) => {
    t.throws(() => parseJsonPath(template), { instanceOf: UsageError });
  });
}

test('jsonpath ends on any template, with text or a usage error', (t) => {
  const pieces = fc.array(
    fc.constantFrom(
      '{',
      '}',
      '.',
      '[',
      ']',
      '*',
      '?(',
      ')',
      '@',
      '"',
      "'",
      'a',
      '0',
      ':',
      ',',
      '==',
      '&&',
      'range ',
      'end',
      '\\',
      ' ',
      '$',
    ),
    { maxLength: 20 },
  );
  fc.assert(
    fc.property(pieces, (parts) => {
      try {
        parseJsonPath(parts.join('')).render(root);
      } catch (error) {
        if (!(error instanceof UsageError)) throw error;
      }
    }),
    { numRuns: 3000 },
  );
  t.pass();
});
