import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { findProgram, run, SetupError, step, succeeds, systemEnvironment } from './process.mjs';

/** Folders and files of the npm packages of one checkout. */
export function packagePaths(root) {
  const modules = path.join(root, 'node_modules');
  const runtime = path.join(modules, 'node', 'node_modules', `node-linux-${process.arch}`);
  return {
    modules,
    node: path.join(modules, '.bin', 'node'),
    nodeBinary: path.join(modules, 'node', 'bin', 'node'),
    runtime,
    headers: path.join(runtime, 'include', 'node', 'node_api.h'),
    sqlite: path.join(modules, 'sqlite3'),
    nodeGyp: path.join(modules, 'node-gyp', 'bin', 'node-gyp.js'),
  };
}

/**
 * What is missing of the npm packages: `packages` (something of package-lock.json is not there as locked), `node` (the pinned
 * Node.js), `sqlite` (its compiled binding). Looks at what is there, not at a note of what once was: a folder that another `npm ci` filled is
 * as good as ours. Nothing is contacted.
 */
export async function missingPackages(root) {
  const paths = packagePaths(root);
  if (!lockIsInstalled(root)) return { packages: true, node: true, sqlite: true };
  const node = !(await succeeds(paths.node, ['--version']));
  const runner = node ? process.execPath : paths.node;
  const sqlite = !(await succeeds(runner, ['-e', 'require("sqlite3")'], { cwd: root }));
  return { packages: false, node, sqlite };
}

/** Installs what `missingPackages` named. Build tools must be there when `sqlite` is among it. */
export async function installPackages(root, missing, { say, logFile }) {
  const paths = packagePaths(root);
  const npm = findProgram('npm');
  const node = findProgram('node') ?? process.execPath;
  if (!npm && (missing.packages || missing.node)) {
    throw new SetupError('npm is not on PATH: install it (on Debian: apt-get install npm) and start again.');
  }
  if (missing.packages) {
    await step(say, 'Installing the npm packages', () => installLocked(npm, { root, logFile }));
  }
  const needsHeaders = missing.sqlite && !existsSync(paths.headers) && !existsSync('/usr/include/node/node_api.h');
  if (needsHeaders || (missing.node && !(await succeeds(paths.nodeBinary, ['--version'])))) {
    await step(say, `Installing Node.js ${pinnedVersion(paths)}`, () =>
      run(node, ['installArchSpecificPackage'], {
        cwd: path.join(paths.modules, 'node'),
        // Its script calls npm by name.
        env: systemEnvironment({
          npm_config_audit: 'false',
          npm_config_fund: 'false',
          npm_config_ignore_scripts: 'true',
        }),
        logFile,
        failure: 'Node.js could not be installed from the npm registry',
      }),
    );
  }
  // npm links a program when it unpacks the package; this one came later.
  if (missing.node) {
    rmSync(paths.node, { force: true });
    symlinkSync(path.relative(path.dirname(paths.node), paths.nodeBinary), paths.node);
  }
  if (missing.sqlite) {
    const nodedir = existsSync(paths.headers) ? paths.runtime : '/usr';
    await step(say, 'Compiling SQLite (about a minute)', () =>
      // node-gyp itself, with the headers named: it would otherwise fetch them.
      run(paths.node, [paths.nodeGyp, 'rebuild', `--nodedir=${nodedir}`, '--jobs=max'], {
        cwd: paths.sqlite,
        env: systemEnvironment({ npm_config_nodedir: nodedir }),
        logFile,
        failure: 'SQLite could not be compiled',
      }),
    );
  }
  const left = await missingPackages(root);
  const names = Object.keys(left).filter((name) => left[name]);
  if (names.length > 0)
    throw new SetupError(`Set-up ended, but this is still not usable: ${names.join(', ')}. See ${logFile}.`);
}

/**
 * The packages as locked. Not their own install scripts: newer versions of npm hold them back, and one of them would fetch a binary from
 * elsewhere; the two that matter are run by the caller.
 */
async function installLocked(npm, { root, logFile }) {
  const options = [
    '--include=dev',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--prefer-offline',
    '--loglevel=warn',
  ];
  await run(npm, ['ci', ...options], { cwd: root, logFile, failure: 'The npm packages could not be installed' });
}

/** Whether every package of package-lock.json that is not for another platform is there in the version that is locked. */
function lockIsInstalled(root) {
  const wanted = readLock(path.join(root, 'package-lock.json'));
  if (!wanted)
    throw new SetupError(`${path.join(root, 'package-lock.json')} cannot be read: this is not a whole checkout.`);
  const installed = readLock(path.join(root, 'node_modules', '.package-lock.json'));
  if (!installed) return false;
  for (const [name, entry] of Object.entries(wanted)) {
    if (name === '') continue;
    const there = installed[name];
    if (there ? there.version !== entry.version || there.integrity !== entry.integrity : !entry.optional) return false;
    if (there && !existsSync(path.join(root, name, 'package.json'))) return false;
  }
  return true;
}

function readLock(file) {
  try {
    const { packages } = JSON.parse(readFileSync(file, 'utf8'));
    return packages && typeof packages === 'object' ? packages : undefined;
  } catch {
    return undefined;
  }
}

function pinnedVersion(paths) {
  return JSON.parse(readFileSync(path.join(paths.modules, 'node', 'package.json'), 'utf8')).version;
}

/** The folder for what set-up leaves beside the checkout's own files; not in git. */
export function cacheFolder(root) {
  const folder = path.join(root, '.cache');
  mkdirSync(folder, { recursive: true });
  return folder;
}
