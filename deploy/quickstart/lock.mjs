import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { delay, reasonOf, SetupError } from './process.mjs';
import { startTicks } from './processes.mjs';

/**
 * Runs `work` while no other process of this machine holds the lock. A holder that is gone, kill -9 included, holds nothing: the file names
 * its process and when that started, so a process number that was used again does not fool anybody.
 */
export async function withLock(file, { say, waitingFor, timeoutMs = 15 * 60_000 }, work) {
  const mine = `${file}.${process.pid}`;
  const deadlineMs = Date.now() + timeoutMs;
  let said = false;
  try {
    writeHolder(mine);
    while (!take(mine, file)) {
      if (isStale(file)) {
        removeStale(file);
        continue;
      }
      if (!said) say(`Waiting for ${waitingFor} …`);
      said = true;
      if (Date.now() > deadlineMs)
        throw new SetupError(`Gave up waiting for ${waitingFor}. If there is none, remove ${file}.`);
      await delay(200);
    }
  } finally {
    rmSync(mine, { force: true });
  }
  try {
    return await work();
  } finally {
    rmSync(file, { force: true });
  }
}

function writeHolder(file) {
  try {
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, JSON.stringify({ pid: process.pid, startTicks: startTicks(process.pid) }));
  } catch (error) {
    throw new SetupError(`Nothing can be written to ${path.dirname(file)}: ${reasonOf(error)}.`);
  }
}

function take(mine, file) {
  try {
    linkSync(mine, file);
    return true;
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  }
}

function isStale(file) {
  try {
    const holder = JSON.parse(readFileSync(file, 'utf8'));
    return typeof holder.startTicks !== 'number' || startTicks(holder.pid) !== holder.startTicks;
  } catch (error) {
    // Released meanwhile: not stale, just free. Garbage: nobody holds that.
    return error.code !== 'ENOENT';
  }
}

/** Moves it aside first: of two that found the same stale lock, the slower one must not remove the lock that the faster one took. */
function removeStale(file) {
  const aside = `${file}.stale.${process.pid}`;
  try {
    renameSync(file, aside);
  } catch (error) {
    if (error.code === 'ENOENT') return;
    throw error;
  }
  if (!isStale(aside)) take(aside, file);
  rmSync(aside, { force: true });
}
