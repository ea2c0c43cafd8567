import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, statSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import process from 'node:process';
import { delay, findProgram, SetupError, step, succeeds, systemEnvironment } from './process.mjs';
import { isAlive, startTicks } from './processes.mjs';

export const defaultSocket = '/var/run/docker.sock';

/** The engine's socket: `DOCKER_HOST` when that is set, else Docker's own default. Throws SetupError for an engine that has no socket here. */
export function engineSocket(environment = process.env) {
  const given = environment.DOCKER_HOST;
  if (!given) return { socket: defaultSocket, chosen: false };
  if (!given.startsWith('unix://') || !path.isAbsolute(given.slice('unix://'.length))) {
    throw new SetupError(
      `DOCKER_HOST is ${given}, but a node uses the engine on its own machine: set it to unix:///path/of/docker.sock, or unset it.`,
    );
  }
  return { socket: given.slice('unix://'.length), chosen: true };
}

/** `ready`, `denied` (there may be one, but this user may not ask it) or `absent`. */
export function askEngine(socket, timeoutMs = 5_000) {
  return new Promise((resolve) => {
    const request = http.get({ socketPath: socket, path: '/_ping', timeout: timeoutMs }, (response) => {
      response.resume();
      resolve(response.statusCode === 200 ? 'ready' : 'absent');
    });
    request.once('timeout', () => request.destroy(new Error('no answer')));
    request.once('error', (error) => resolve(error.code === 'EACCES' ? 'denied' : 'absent'));
  });
}

/** Throws SetupError when no engine answers on this socket and set-up may not start one. Returns whether one has to be started. */
export async function engineMustStart({ socket, chosen }) {
  const state = await askEngine(socket);
  if (state === 'ready') return false;
  if (state === 'denied') {
    throw new SetupError(
      `You may not use the Docker engine on ${socket}: join its group (sudo usermod -aG docker $USER, then log in anew), or start as root.`,
    );
  }
  if (chosen)
    throw new SetupError(
      `DOCKER_HOST names ${socket}, but no Docker engine answers there: start it, or unset DOCKER_HOST.`,
    );
  if (process.getuid() !== 0) {
    throw new SetupError(
      `No Docker engine answers on ${socket}, and only root may start one. Start it (sudo systemctl start docker), then start again.`,
    );
  }
  return true;
}

/**
 * Starts the machine's Docker engine and waits until it answers: through systemd where that runs, else by hand, detached, with its
 * output in `logFile`. Such an engine stays when Baykeeper stops: the containers on it do.
 */
export async function startEngine({ socket, say, logFile, timeoutMs = 90_000 }) {
  await step(say, 'Starting the Docker engine', async () => {
    const systemd = isDirectory('/run/systemd/system') && (await succeeds('systemctl', ['start', 'docker']));
    if (systemd) {
      await waitFor(
        socket,
        timeoutMs,
        () => undefined,
        'systemctl start docker was accepted, but no engine answers: see journalctl -u docker.',
      );
      return;
    }
    // Between the question and now another may have started one: a service script of the package, say.
    if ((await askEngine(socket)) === 'ready') return;
    const started = spawnEngine(socket, logFile);
    const ended = () =>
      isAlive(started) || otherEngine()
        ? undefined
        : `The Docker engine ended at once: ${lastReason(logFile)} (see ${logFile}).`;
    await waitFor(socket, timeoutMs, ended, `The Docker engine was started but does not answer: see ${logFile}.`);
  });
}

function spawnEngine(socket, logFile) {
  const program = findProgram('dockerd');
  if (!program) throw new SetupError('dockerd is not on this machine: install a Docker engine, then start again.');
  const log = openSync(logFile, 'a');
  const child = spawn(program, ['--host', `unix://${socket}`], {
    detached: true,
    stdio: ['ignore', log, log],
    cwd: '/',
    env: systemEnvironment(),
  });
  closeSync(log);
  child.on('error', () => {
    // Seen as "ended at once" by whoever waits.
  });
  child.unref();
  return { pid: child.pid, startTicks: startTicks(child.pid) };
}

/** An engine that is on its way, started by somebody else. */
function otherEngine() {
  try {
    const pid = Number(readFileSync('/var/run/docker.pid', 'utf8'));
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === 'dockerd';
  } catch {
    return false;
  }
}

async function waitFor(socket, timeoutMs, ended, failure) {
  const deadlineMs = Date.now() + timeoutMs;
  while ((await askEngine(socket)) !== 'ready') {
    const reason = ended();
    if (reason) throw new SetupError(reason);
    if (Date.now() > deadlineMs) throw new SetupError(failure);
    await delay(200);
  }
}

/** The message of the last line in which the engine says why it gave up. */
function lastReason(logFile) {
  const lines = readFileSync(logFile, 'utf8').trimEnd().split('\n');
  const line = lines.findLast((text) => /failed|error|fatal/i.test(text)) ?? lines.at(-1) ?? '';
  return line.replace(/^.*?msg="(.*)".*$/, '$1').slice(0, 300);
}

function isDirectory(folder) {
  try {
    return statSync(folder).isDirectory();
  } catch {
    return false;
  }
}
