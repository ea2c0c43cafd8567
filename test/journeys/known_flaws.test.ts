import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { gunzipSync } from 'node:zlib';
import test from 'ava';
import { ownProgram, run } from '../harness/program.ts';
import { type TemporaryFolder, temporaryFolder } from '../harness/temporary_folder.ts';

/** Real ones, as the registry has them. */
const advisories: Record<string, { id: number; url: string; title: string; severity: string; vulnerable: string }> = {
  minimist: {
    id: 1097678,
    url: 'https://github.com/advisories/GHSA-xvch-5gv4-984h',
    title: 'Prototype Pollution in minimist',
    severity: 'critical',
    vulnerable: '>=1.0.0 <1.2.6',
  },
  ini: {
    id: 1089189,
    url: 'https://github.com/advisories/GHSA-qqgx-2p2h-9c37',
    title: 'ini before 1.3.6 vulnerable to Prototype Pollution via ini.parse',
    severity: 'high',
    vulnerable: '<1.3.6',
  },
};

/** Plays the registry: what it knows of are the advisories of these packages. Undefined: it refuses the question, as a mirror does. */
async function registry(known: readonly string[] | undefined) {
  const asked: string[] = [];
  const server = createServer(async (request, response) => {
    const body = await buffer(request);
    const name = request.url?.slice(1) ?? '';
    if (request.method === 'POST' && known && request.url === '/-/npm/v1/security/advisories/bulk') {
      const names = Object.keys(JSON.parse(gunzipSync(body).toString('utf8')));
      asked.push(...names);
      const found = names.filter((one) => known.includes(one));
      const answer = found.map((one) => [
        one,
        [{ ...advisories[one], vulnerable_versions: advisories[one]?.vulnerable }],
      ]);
      response.end(JSON.stringify(Object.fromEntries(answer)));
    } else if (request.method === 'GET' && name in advisories) {
      response.end(JSON.stringify({ name, 'dist-tags': {}, versions: {} }));
    } else response.writeHead(request.method === 'POST' ? 405 : 404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    asked,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}

/** A checkout with `ini` 1.3.5, of the threat model of this text. */
async function checkout(findings: string): Promise<TemporaryFolder> {
  const folder = await temporaryFolder('audit');
  const dependencies = { ini: '1.3.5' };
  const packages = { '': { dependencies }, 'node_modules/ini': { version: '1.3.5' } };
  mkdirSync(path.join(folder.path, 'deploy'));
  writeFileSync(path.join(folder.path, 'package.json'), JSON.stringify({ dependencies }));
  writeFileSync(path.join(folder.path, 'package-lock.json'), JSON.stringify({ lockfileVersion: 3, packages }));
  const text = `# Threat model\n\n- not an answer: GHSA-qqgx-2p2h-9c37\n\n## Findings of \`npm audit\`\n\n${findings}`;
  writeFileSync(path.join(folder.path, 'deploy', 'threat-model.md'), text);
  return folder;
}

async function audit(findings: string, url: string) {
  await using folder = await checkout(findings);
  const env = { npm_config_registry: url, npm_config_cache: path.join(folder.path, 'cache') };
  const { code, stdout, stderr } = await run(ownProgram('test/known_flaws.ts', folder.path), { env });
  return { code, text: `${stdout}${stderr}` };
}

test('a known flaw without an answer in the docs is a failure that names it', async (t) => {
  await using server = await registry(['minimist', 'ini']);
  const { code, text } = await audit('No finding stands here: GHSA-qqgx-2p2h-9c37.\n', server.url);
  t.is(code, 1, text);
  t.regex(text, /^GHSA-qqgx-2p2h-9c37: ini <1\.3\.6 \(high\): ini before 1\.3\.6 .*; in node_modules\/ini$/m);
  t.regex(text, /1 found, 1 without an answer/);
  t.deepEqual(server.asked, ['minimist', 'ini']);
});

test('one that is answered there is none, and an answer to nothing is named', async (t) => {
  await using server = await registry(['minimist', 'ini']);
  const findings = '- **ini** (GHSA-qqgx-2p2h-9c37): reads our own file.\n- **x** (GHSA-aaaa-bbbb-cccc): is gone.\n';
  const { code, text } = await audit(findings, server.url);
  t.is(code, 0, text);
  t.regex(text, /1 found, 0 without an answer/);
  t.regex(text, /^GHSA-aaaa-bbbb-cccc is found no more: its answer can go$/m);
});

test('a registry that refuses the question, or cannot be reached, fails nothing and is named', async (t) => {
  await using server = await registry(undefined);
  for (const [url, why] of [
    [server.url, /NOT ASKED: 405 Method Not Allowed/],
    ['http://127.0.0.1:9', /NOT ASKED: .*ECONNREFUSED/],
  ] as const) {
    const { code, text } = await audit('', url);
    t.is(code, 0, text);
    t.regex(text, why);
    t.notRegex(text, /0 found/);
  }
});

test('a registry that knows of no flaw at all is not believed', async (t) => {
  await using server = await registry([]);
  const { code, text } = await audit('', server.url);
  t.is(code, 0, text);
  t.regex(text, /NOT ASKED: the registry knows no flaw of minimist 1\.2\.5/);
});
