import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { checkDebianPackages, installDebianPackages, missingDebianPackages } from './debian.mjs';
import { linkForCheckout } from './links.mjs';
import { withLock } from './lock.mjs';
import { cacheFolder, installPackages, missingPackages } from './packages.mjs';
import { SetupError } from './process.mjs';

/** The checkout that this file is in. */
export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..');

/**
 * Makes sure of everything that the checkout needs of this machine: npm packages, the pinned Node.js, and the programs in `wanted`
 * (names as in debian.mjs). Says what it installs while it does; says nothing and contacts nobody when nothing is missing. Two at a time wait for
 * each other. Throws SetupError with one sentence when something cannot be had.
 */
export async function setUp(options) {
  await installMissing(options);
  // Also when nothing was missing: another npm ci takes it away.
  linkForCheckout(root);
}

async function installMissing({ wanted, say }) {
  if (process.platform !== 'linux') throw new SetupError('Set-up knows Linux only.');
  if (Number(process.versions.node.split('.')[0]) < 20)
    throw new SetupError(`Node.js 20 or newer is needed to begin with; this is ${process.version}.`);
  if ((await whatIsMissing(wanted)).nothing) return;
  const cache = cacheFolder(root);
  const logFile = path.join(cache, 'setup.log');
  await withLock(path.join(cache, 'setup.lock'), { say, waitingFor: 'another set-up of this folder' }, async () => {
    const missing = await whatIsMissing(wanted);
    if (missing.nothing) return;
    checkDebianPackages(missing.debian);
    say(`Setting up what this machine lacks. Details go to ${logFile}`);
    await installDebianPackages(missing.debian, { say, logFile });
    if (missing.npm) await installPackages(root, missing.npm, { say, logFile });
  });
}

async function whatIsMissing(wanted) {
  const npm = await missingPackages(root);
  const npmIsComplete = !npm.packages && !npm.node && !npm.sqlite;
  const debian = await missingDebianPackages(npm.sqlite ? ['compiler', ...wanted] : wanted);
  return { nothing: npmIsComplete && debian.length === 0, npm: npmIsComplete ? undefined : npm, debian };
}

/** Runs `main`; a SetupError becomes its sentence on stderr and its exit code. */
export async function runMain(main) {
  try {
    process.exitCode = await main();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exitCode = error.exitCode;
  }
}

// As a program: node setup.mjs [NAME…], for what npm test and the benchmarks need.
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await runMain(async () => {
    await setUp({ wanted: process.argv.slice(2), say: (text) => process.stdout.write(`${text}\n`) });
    return 0;
  });
}
