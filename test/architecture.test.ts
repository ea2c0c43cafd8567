import { existsSync, globSync, readFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import path from 'node:path';
import test from 'ava';

/**
 * The directions of imports (DESIGN.md, Layout): main → adapters → ports → domain → proto. The three programs never import each other, a
 * vendor's SDK stays inside one adapter, and nothing but tests imports test/.
 */

const root = path.resolve(import.meta.dirname, '..');
const programs = ['control-plane', 'agent', 'cli'] as const;

interface Import {
  /** Importing file, from the root. */
  readonly from: string;
  /** Imported file, from the root; or the name of a package. */
  readonly to: string;
  readonly isPackage: boolean;
}

const files = globSync('{proto,control-plane,agent,cli,deploy,test}/**/*.{ts,mjs}', { cwd: root }).filter(
  (file) => !file.startsWith('proto/gen/') && !file.includes('node_modules'),
);
const imports = files.flatMap(importsOf);
/** Of the programs themselves: a test beside the code may use what it likes. */
const ofCode = imports.filter(({ from }) => !isTest(from));

test('every relative import leads to a file of the checkout', (t) => {
  t.true(files.length > 20);
  const lost = imports.filter(({ to, isPackage }) => !isPackage && !existsSync(path.join(root, to)));
  t.deepEqual(lost, []);
});

test('every package that is imported is in package.json, and what a program needs is no development dependency', (t) => {
  const manifest: Manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));
  const runtime = Object.keys(manifest.dependencies);
  const known = new Set([...runtime, ...Object.keys(manifest.devDependencies)]);
  const packages = imports.filter(({ isPackage }) => isPackage);
  t.deepEqual(
    packages.filter(({ to }) => !known.has(to)),
    [],
  );
  // What a program needs to run may not be a development dependency alone.
  const dependencies = new Set(runtime);
  const developmentOnly = packages.filter(({ to, from }) => isProgram(from) && !isTest(from) && !dependencies.has(to));
  t.deepEqual(developmentOnly, []);
});

test('the contract imports nothing of ours but itself', (t) => {
  t.deepEqual(
    ofCode.filter(({ from, to, isPackage }) => from.startsWith('proto/') && !isPackage && !to.startsWith('proto/')),
    [],
  );
});

test('the client of OpenStack imports nothing of ours, and is imported by adapters of the control plane and by the cli', (t) => {
  t.deepEqual(
    ofCode.filter(
      ({ from, to, isPackage }) =>
        from.startsWith('proto/openstack/') && !isPackage && !to.startsWith('proto/openstack/'),
    ),
    [],
  );
  const users = /^(proto\/openstack|cli|test)\/|^control-plane\/(auth\/keystone|provision)\//;
  t.deepEqual(
    ofCode.filter(({ from, to, isPackage }) => !isPackage && to.startsWith('proto/openstack/') && !users.test(from)),
    [],
  );
});

test('the three programs never import each other, nor what sets them up', (t) => {
  const wrong = ofCode.filter(({ from, to, isPackage }) => {
    const program = programs.find((name) => from.startsWith(`${name}/`));
    return program && !isPackage && !to.startsWith(`${program}/`) && !to.startsWith('proto/');
  });
  t.deepEqual(wrong, []);
});

test('nothing but tests imports test/', (t) => {
  t.deepEqual(
    ofCode.filter(({ from, to, isPackage }) => !isPackage && !from.startsWith('test/') && to.startsWith('test/')),
    [],
  );
  t.deepEqual(
    ofCode.filter(({ from, to }) => !from.startsWith('test/') && isTest(to)),
    [],
  );
});

test('what sets the machine up and supervises imports none of the programs', (t) => {
  t.deepEqual(
    ofCode.filter(({ from, to, isPackage }) => from.startsWith('deploy/') && (isPackage || !to.startsWith('deploy/'))),
    [],
  );
});

test('pure rules import pure rules and the contract only', (t) => {
  const wrong = ofCode.filter(
    ({ from, to, isPackage }) => layerOf(from) === 'domain' && !isPackage && !['domain', 'proto'].includes(layerOf(to)),
  );
  t.deepEqual(wrong, []);
  const effects = /^node:(fs|net|http|https|http2|child_process|dgram|tls|worker_threads|dns|timers)/;
  t.deepEqual(
    rawImports('control-plane/domain').filter(({ specifier }) => effects.test(specifier)),
    [],
  );
});

test('ports import ports, pure rules and the contract only', (t) => {
  const wrong = ofCode.filter(
    ({ from, to, isPackage }) =>
      layerOf(from) === 'port' && !isPackage && !['port', 'domain', 'proto'].includes(layerOf(to)),
  );
  t.deepEqual(wrong, []);
});

test('adapters know each other through ports only', (t) => {
  const wrong = ofCode.filter(({ from, to, isPackage }) => {
    const [folder, target] = [adapterOf(from), adapterOf(to)];
    return !isPackage && folder && target && folder !== target && layerOf(to) !== 'port';
  });
  t.deepEqual(wrong, []);
});

test('the halves of the agent, one towards the control plane and one towards the engine, know each other through ports only', (t) => {
  const halfOf = (file: string) =>
    /^agent\/(link|containers|cluster|drivers)\//.exec(file)?.[1]?.replace(/^(?!link).*/, 'engine');
  const wrong = ofCode.filter(({ from, to, isPackage }) => {
    const [half, target] = [halfOf(from), halfOf(to)];
    return !isPackage && half && target && half !== target;
  });
  t.deepEqual(wrong, []);
});

test('no file imports itself, by whichever way round', (t) => {
  const of = Map.groupBy(
    imports.filter(({ to, isPackage }) => !isPackage && files.includes(to)),
    ({ from }) => from,
  );
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (file: string, way: readonly string[]): void => {
    const start = way.indexOf(file);
    if (start >= 0) circles.push([...way.slice(start), file].join(' → '));
    if (start >= 0 || done.has(file)) return;
    for (const { to } of of.get(file) ?? []) visit(to, [...way, file]);
    done.add(file);
  };
  for (const file of files) visit(file, []);
  t.deepEqual(circles, []);
});

test('main and config of the control plane are imported by main alone', (t) => {
  const wrong = ofCode.filter(
    ({ from, to }) => adapterOf(from) && /^control-plane\/(main|config|server)\.ts$/.test(to),
  );
  t.deepEqual(wrong, []);
});

test("a vendor's SDK stays inside one adapter of a program", (t) => {
  const places: Record<string, readonly RegExp[]> = {
    nats: [/^control-plane\/broker\//, /^agent\/link\/(link|nats)\.ts$/],
    // As proto/nkeys.ts has it.
    'nkeys.js': [],
    'nats-jwt': [/^control-plane\/broker\//],
    sqlite3: [/^control-plane\/store\/sqlite[^/]*\.ts$/],
    jose: [/^control-plane\/auth\/oidc\//],
    'openid-client': [/^control-plane\/auth\/oidc\//, /^cli\/oidc_login\.ts$/],
    pg: [/^control-plane\/store\/postgres[^/]*\.ts$/],
    dockerode: [/^agent\/drivers\/docker[^/]*\.ts$/, /^agent\/drivers\/docker\//],
    '@kubernetes/client-node': [/^agent\/drivers\/kubernetes/],
    '@grpc/reflection': [/^control-plane\/api\//],
    '@peculiar/x509': [/^control-plane\/tls\/certificate\.ts$/],
    commander: [
      /^cli\//,
      /^agent\/(main|cli|config)\.ts$/,
      /^control-plane\/(main|config|option_values)\.ts$/,
      /^control-plane\/.*_(options|command)\.ts$/,
    ],
  };
  const wrong = ofCode.filter(
    ({ from, to }) => isProgram(from) && places[to] && !places[to].some((place) => place.test(from)),
  );
  t.deepEqual(wrong, []);
});

interface Manifest {
  readonly dependencies: Record<string, string>;
  readonly devDependencies: Record<string, string>;
}

/** Tests, and the contract suites that tests call. */
function isTest(file: string): boolean {
  return file.endsWith('.test.ts') || /\/contract(_[^/]*)?\.ts$/.test(file);
}

function isProgram(file: string): boolean {
  return programs.some((name) => file.startsWith(`${name}/`));
}

/** Where a file stands in the order of imports. */
function layerOf(file: string): 'proto' | 'domain' | 'port' | 'adapter' | 'other' {
  if (file.startsWith('proto/')) return 'proto';
  if (file.startsWith('control-plane/domain/')) return 'domain';
  if (/^control-plane\/[^/]+\/port\.ts$/.test(file) || file === 'agent/ports.ts') return 'port';
  return adapterOf(file) ? 'adapter' : 'other';
}

/** The folder of the control plane that a file belongs to, other than its pure rules. */
function adapterOf(file: string): string | undefined {
  const folder = /^control-plane\/([^/]+)\//.exec(file)?.[1];
  return folder === 'domain' ? undefined : folder;
}

function importsOf(file: string): Import[] {
  return specifiersOf(file)
    .filter((specifier) => !isBuiltin(specifier))
    .map((specifier) => {
      if (specifier.startsWith('.')) {
        return { from: file, to: path.join(path.dirname(file), specifier), isPackage: false };
      }
      const parts = specifier.split('/');
      return { from: file, to: parts.slice(0, specifier.startsWith('@') ? 2 : 1).join('/'), isPackage: true };
    });
}

function rawImports(folder: string): { from: string; specifier: string }[] {
  const code = files.filter((file) => file.startsWith(`${folder}/`) && !isTest(file));
  return code.flatMap((from) => specifiersOf(from).map((specifier) => ({ from, specifier })));
}

/** What the file imports and re-exports, dynamic imports included. Comments and strings that merely look like code are left out. */
function specifiersOf(file: string): string[] {
  const text = readFileSync(path.join(root, file), 'utf8').replaceAll(/\/\*[\s\S]*?\*\//g, '');
  const statements = /^(?:import|export)\s(?:[^'"`;]*?\sfrom\s)?\s*['"]([^'"]+)['"]/gm;
  const dynamic = /\bimport\(\s*['"]([^'"]+)['"]/g;
  return [statements, dynamic].flatMap((pattern) => [...text.matchAll(pattern)].map((match) => match[1] ?? ''));
}
