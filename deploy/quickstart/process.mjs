import { spawn } from 'node:child_process';
import { accessSync, closeSync, constants as fsConstants, openSync, readFileSync, statSync } from 'node:fs';
import { constants } from 'node:os';
import path from 'node:path';
import process from 'node:process';

/** A reason to stop that the person at the keyboard can act on: printed as it is, without a stack. */
export class SetupError extends Error {
  name = 'SetupError';
  exitCode = 1;
}

/** It was told to end before it was done. */
export class Interrupted extends SetupError {
  name = 'Interrupted';
  constructor(signal) {
    super('\nStopped before the set-up was done. Start again, and it goes on.');
    this.exitCode = 128 + constants.signals[signal];
  }
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
      accessSync(candidate, fsConstants.X_OK);
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
 *
 * Ctrl-C, and being told to end, throws Interrupted once the program has ended with all that it started: a second start must not find it at
 * work. `whole`: it is let finish, because half done it would leave the machine broken.
 */
export async function run(command, args, { logFile, failure, cwd, env = systemEnvironment(), whole = false }) {
  const log = openSync(logFile, 'a');
  const sizeBefore = statSync(logFile).size;
  let child;
  let interrupted;
  let late;
  const interrupt = (signal) => {
    if (interrupted) return;
    interrupted = signal;
    if (whole) process.stdout.write(`\nStopping when ${path.basename(command)} is done …\n`);
    else {
      signalGroup(child.pid, 'SIGTERM');
      late = setTimeout(() => signalGroup(child.pid, 'SIGKILL'), 5_000);
    }
  };
  // Before it starts: else a signal that comes just then ends us alone.
  for (const signal of endingSignals) process.on(signal, interrupt);
  // A process group of its own: Ctrl-C reaches us alone, and one signal reaches all of it.
  child = spawn(command, args, { cwd, env, stdio: ['ignore', log, log], detached: true });
  closeSync(log);
  // However else we end: with an error of our own, or because who reads what we say has gone.
  const abandon = () => {
    if (!whole) signalGroup(child.pid, 'SIGKILL');
  };
  process.on('exit', abandon);
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (status, signal) => resolve(signal ?? status));
  }).catch((error) => error.message);
  for (const signal of endingSignals) process.off(signal, interrupt);
  process.off('exit', abandon);
  clearTimeout(late);
  if (interrupted) {
    // What it started and did not wait for.
    if (!whole) signalGroup(child.pid, 'SIGKILL');
    throw new Interrupted(interrupted);
  }
  if (code === 0) return;
  const output = readFileSync(logFile).subarray(sizeBefore).toString('utf8').trimEnd();
  throw new SetupError(
    `${failure} (${path.basename(command)} ${args[0] ?? ''}: ${code}). The whole output is in ${logFile}; it ends with:\n  ${output.split('\n').slice(-12).join('\n  ')}`,
  );
}

const endingSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'];

function signalGroup(pid, signal) {
  try {
    if (pid) process.kill(-pid, signal);
  } catch (error) {
    // All of it has ended.
    if (error.code !== 'ESRCH') throw error;
  }
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

const reasons = {
  EACCES: 'you have no right to do that',
  EPERM: 'you have no right to do that',
  ENOSPC: 'the disk is full',
  EDQUOT: 'your share of the disk is full',
  EROFS: 'the file system is read-only',
  ENOENT: 'nothing can be made there',
  ENOTDIR: 'a part of the path is a file',
  EEXIST: 'there is a file of that name',
};

/** Why something could not be done with a file, for a sentence. */
export function reasonOf(error) {
  return reasons[error.code] ?? error.message;
}
