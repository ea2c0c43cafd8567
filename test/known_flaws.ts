import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';

/**
 * `npm run audit`: asks the registry for known flaws of what package-lock.json names, and fails for each that the section "Findings of `npm audit`"
 * of deploy/threat-model.md does not answer: "- **package** (GHSA-…): why it does not concern us". That section is the one place for answers.
 *
 * Not every mirror of the registry answers that question. One that refuses it, or that knows nothing of a flaw that is known for years, is said
 * so plainly, and is no failure: whether the packages are sound was then not asked.
 *
 * `node test/known_flaws.ts [FOLDER]`: of another checkout. Which registry: as npm is configured.
 */

/** A flaw of one of the packages, as the registry tells of it. */
interface Flaw {
  /** GHSA-…: the last part of its address. */
  readonly id: string;
  readonly name: string;
  readonly severity: string;
  readonly title: string;
  readonly range: string;
  /** Where it lies below the checkout. */
  readonly nodes: readonly string[];
}

type Answer = { readonly flaws: readonly Flaw[] } | { readonly refused: string };

/** What `npm audit --json` prints: a report, or why there is none. */
interface AuditOutput {
  readonly vulnerabilities?: Record<string, { readonly via: readonly (Advisory | string)[]; readonly nodes: string[] }>;
  /** What the registry said, or why it was not reached. */
  readonly message?: string;
  readonly error?: { readonly summary?: string };
}

interface Advisory {
  readonly url: string;
  readonly name: string;
  readonly severity: string;
  readonly title: string;
  readonly range: string;
}

/** A registry that answers knows this one: GHSA-xvch-5gv4-984h, of 2022. */
const flawed = { name: 'minimist', version: '1.2.5' };

const folder = path.resolve(process.argv[2] ?? path.join(import.meta.dirname, '..'));
process.exitCode = await main();

async function main(): Promise<number> {
  const control = await askOf(flawed);
  if ('refused' in control) return notAsked(control.refused);
  if (control.flaws.length === 0)
    return notAsked(
      `the registry knows no flaw of ${flawed.name} ${flawed.version}, so it does not answer this question`,
    );
  const answer = await ask(folder);
  if ('refused' in answer) return notAsked(answer.refused);
  const answered = await answers();
  const open = answer.flaws.filter(({ id }) => !answered.has(id));
  for (const { id, name, severity, title, range, nodes } of open)
    console.log(`${id}: ${name} ${range} (${severity}): ${title}; in ${nodes.join(', ')}`);
  const found = new Set(answer.flaws.map(({ id }) => id));
  for (const id of answered) if (!found.has(id)) console.log(`${id} is found no more: its answer can go`);
  const counts = `${found.size} found, ${new Set(open.map(({ id }) => id)).size} without an answer`;
  console.log(`known flaws of packages: ${counts} in deploy/threat-model.md`);
  return open.length > 0 ? 1 : 0;
}

function notAsked(why: string): number {
  console.log(`known flaws of packages: NOT ASKED: ${why}. Ask a registry that answers: npm run audit --registry=URL`);
  return 0;
}

/** A project of this one package. */
async function askOf({ name, version }: { name: string; version: string }): Promise<Answer> {
  const project = await mkdtemp(path.join(tmpdir(), 'baykeeper-audit-'));
  try {
    const dependencies = { [name]: version };
    const packages = { '': { dependencies }, [`node_modules/${name}`]: { version } };
    await writeFile(path.join(project, 'package.json'), JSON.stringify({ dependencies }));
    await writeFile(path.join(project, 'package-lock.json'), JSON.stringify({ lockfileVersion: 3, packages }));
    return await ask(project);
  } finally {
    await rm(project, { recursive: true, force: true });
  }
}

async function ask(cwd: string): Promise<Answer> {
  // A registry that says nothing is not waited for as npm does: for minutes.
  const patience = ['--fetch-timeout=30000', '--fetch-retries=1', '--fetch-retry-mintimeout=1000'];
  const args = ['audit', '--json', '--package-lock-only', ...patience];
  const { stdout, stderr } = await new Promise<{ stdout: string; stderr: string }>((resolve) => {
    // It fails when it finds something, too: what it prints says which it is.
    const options = { cwd, maxBuffer: 64 * 1024 * 1024 };
    execFile('npm', args, options, (_error, out, err) => resolve({ stdout: out, stderr: err }));
  });
  const output = parse(stdout);
  if (output?.vulnerabilities) return { flaws: flawsOf(output.vulnerabilities) };
  if (output?.message) return { refused: output.message };
  throw new Error(`npm audit says nothing that is known here: ${output?.error?.summary ?? `${stdout}${stderr}`}`);
}

function parse(text: string): AuditOutput | undefined {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Each once. A package that only needs a flawed one has none of its own. */
function flawsOf(vulnerabilities: NonNullable<AuditOutput['vulnerabilities']>): Flaw[] {
  return Object.values(vulnerabilities).flatMap(({ via, nodes }) =>
    via
      .filter((one) => typeof one !== 'string')
      .map(({ url, name, severity, title, range }) => ({
        id: path.basename(url),
        name,
        severity,
        title,
        range,
        nodes,
      })),
  );
}

/** The ids that the section answers, each in an item of a list. */
async function answers(): Promise<ReadonlySet<string>> {
  const text = await readFile(path.join(folder, 'deploy', 'threat-model.md'), 'utf8');
  const section = text.split(/^## /m).find((part) => part.startsWith('Findings of `npm audit`\n'));
  if (section === undefined) throw new Error('deploy/threat-model.md has no section "Findings of `npm audit`"');
  return new Set([...section.matchAll(/^- .*?(GHSA(?:-[0-9a-z]{4}){3})/gm)].flatMap(([, id]) => id ?? []));
}
