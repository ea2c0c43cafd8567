import { spawn } from 'node:child_process';
import { accessSync, constants, openSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';

/** A reason to stop that the person at the keyboard can act on: printed as it is, without a stack. */
export class SetupError extends Error {
  name = 'SetupError';
}

/** Where Debian keeps programs that the PATH of an ordinary user does not name. */
const systemFolders = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin', '/bin'];

/** The PATH without the folders that npm puts in front of it: set-up replaces what is in them while it runs. */
export function systemPath() {
  const given = (process.env.PATH ?? '')
    .split(path.delimiter)
    .filter((entry) => entry && !entry.includes('node_modules'));
  return [...new Set([...given, ...systemFolders])];
}

/** The full path of a program of this machine, or undefined. */
export function findProgram(name) {
  for (const folder of systemPath()) {
    const candidate = path.join(folder, name);
    try {
      accessSync(candidate, constants.X_OK);
      if (statSync(candidate).isFile()) return candidate;
    } catch {
      // Not here: the next folder.
    }
  }
  return undefined;
}

/** The environment for what set-up runs: the machine's own programs, and none of what npm tells its scripts. */
export function systemEnvironment(extra = {}) {
  const environment = {};
  for (const [key, value] of Object.entries(process.env)) {
    if (
      /^npm_(lifecycle|package|command|config_local_prefix|config_prefix|config_global|config_loglevel|execpath|node_execpath)/.test(
        key,
      )
    )
      continue;
    environment[key] = value;
  }
  return { ...environment, PATH: systemPath().join(path.delimiter), ...extra };
}

/**
 * Runs a program to its end, with its output in a log file. When it does not end with 0: throws SetupError with `failure` and
 * the last lines of the output.
 */
export async function run(command, args, { logFile, failure, cwd, env = systemEnvironment() }) {
  const log = openSync(logFile, 'a');
  const sizeBefore = statSync(logFile).size;
  const child = spawn(command, args, { cwd, env, stdio: ['ignore', log, log] });
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (status, signal) => resolve(signal ?? status));
  }).catch((error) => error.message);
  if (code === 0) return;
  const output = readFileSync(logFile).subarray(sizeBefore).toString('utf8').trimEnd();
  throw new SetupError(
    `${failure} (${path.basename(command)} ${args[0] ?? ''}: ${code}). The whole output is in ${logFile}; it ends with:\n  ${output.split('\n').slice(-12).join('\n  ')}`,
  );
}

/** Whether a program ends with 0. Its output is not looked at. */
export function succeeds(command, args, { cwd, env = systemEnvironment(), timeoutMs = 30_000 } = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd, env, stdio: 'ignore', timeout: timeoutMs, killSignal: 'SIGKILL' });
    child.once('error', () => resolve(false));
    child.once('exit', (code) => resolve(code === 0));
  });
}

/** Says what is being done, runs it, and says how long it took. */
export async function step(say, text, work) {
  const startMs = Date.now();
  say(`${text} …`);
  await work();
  say(`  done in ${((Date.now() - startMs) / 1000).toFixed(0)} s`);
}

export const delay = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
