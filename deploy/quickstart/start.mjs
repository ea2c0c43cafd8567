import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { askEngine, engineMustStart, engineSocket, startEngine } from './engine.mjs';
import { checkPort, defaultPorts, homePath, openHome, parseArguments, readSettings, writeSettings } from './home.mjs';
import { linkBayctl, machineLink } from './links.mjs';
import { withLock } from './lock.mjs';
import { packagePaths } from './packages.mjs';
import { findProgram, SetupError } from './process.mjs';
import { endAll, isAlive, startTicks, supervisorOf } from './processes.mjs';
import { root, runMain, setUp } from './setup.mjs';

const help = `npm start [-- OPTIONS]

Sets up what this machine lacks, then runs the control plane, with this machine as bay "local".
  --detach           return when it is ready, and leave it running; npm stop ends it
  --port NUMBER      port of the API (default: as last time, at first ${defaultPorts.port})
  --nats-port NUMBER port of the broker (default: as last time, at first ${defaultPorts.natsPort})
  --home FOLDER      state folder (default: BAYKEEPER_HOME, or ~/.baykeeper)
`;

const say = (text) => process.stdout.write(`${text}\n`);

await runMain(async () => {
  const options = parseArguments(process.argv.slice(2));
  if (options.help) {
    process.stdout.write(help);
    return 0;
  }
  const running = supervisorOf(homePath(options.home));
  if (running) return alreadyRuns(running, options);
  const paths = openHome(homePath(options.home));
  // The lock is let go of when all is ready, so that a second start finds it running.
  const started = await withLock(paths.lock, { say, waitingFor: 'another npm start' }, () => start(paths, options));
  return started.follow ? started.follow() : started.code;
});

async function start(paths, options) {
  const running = supervisorOf(paths.home);
  if (running) return { code: alreadyRuns(running, options) };
  // What a supervisor that was killed left behind. The agent and the control plane find their state again.
  const left = await endAll(paths.home);
  if (left.length > 0) say(`Stopped what an earlier start left behind (${left.map(({ role }) => role).join(', ')}).`);

  const ports = { ...defaultPorts, ...readSettings(paths) };
  if (options.port) ports.port = options.port;
  if (options.natsPort) ports.natsPort = options.natsPort;
  if (ports.port === ports.natsPort)
    throw new SetupError(`--port and --nats-port are both ${ports.port}: they must differ.`);
  // First what takes no time, so that nobody waits two minutes for a no.
  await checkPort(ports.port, '--port');
  await checkPort(ports.natsPort, '--nats-port');
  const engine = engineSocket();
  const bringEngine = !engine.chosen && !findProgram('dockerd');
  const mustStart = bringEngine ? undefined : await engineMustStart(engine);
  await setUp({ wanted: bringEngine && (await isAbsent(engine)) ? ['broker', 'engine'] : ['broker'], say });
  if (mustStart ?? (await engineMustStart(engine))) {
    await startEngine({ socket: engine.socket, say, logFile: path.join(paths.logs, 'dockerd.log') });
  }
  writeSettings(paths, ports);
  const linked = isMachinesOwn(options) && ['linked', 'there'].includes(linkBayctl(root, machineLink));
  return runSupervisor(paths, { ...ports, socket: engine.socket, detach: options.detach, linked });
}

/** Whether this is root's one start for the machine, with nothing else said: then bayctl may be linked for everybody. */
function isMachinesOwn(options) {
  return process.getuid() === 0 && !options.home && !process.env.BAYKEEPER_HOME;
}

async function isAbsent(engine) {
  // A right that is missing is said at once, before anything is installed.
  const state = await askEngine(engine.socket);
  if (state === 'denied') await engineMustStart(engine);
  return state === 'absent';
}

/** Starts the supervisor as a process of its own, which a closed terminal does not take along, and waits until it says that all is ready. */
async function runSupervisor(paths, { port, natsPort, socket, detach, linked }) {
  const logFile = path.join(paths.logs, 'supervisor.log');
  const log = openSync(logFile, 'a', 0o600);
  const args = ['--home', paths.home, '--port', String(port), '--nats-port', String(natsPort), '--docker', socket];
  const child = spawn(packagePaths(root).node, [path.join(root, 'deploy', 'quickstart', 'supervisor.ts'), ...args], {
    detached: true,
    cwd: paths.home,
    stdio: ['ignore', log, log, 'ipc'],
  });
  closeSync(log);
  const target = { pid: child.pid, startTicks: startTicks(child.pid) };
  const exited = new Promise((resolve) => {
    child.once('error', (error) => resolve({ reason: error.message }));
    child.once('exit', (code, signal) =>
      resolve({ code: code ?? 1, reason: signal ? `it was ended by ${signal}` : `it ended with ${code}` }),
    );
  });
  let failure;
  const ready = new Promise((resolve) => {
    child.on('message', (message) => {
      if (message.kind === 'say') say(message.text);
      if (message.kind === 'failed') failure = message.reason;
      if (message.kind === 'ready') resolve(true);
    });
  });

  let stopping = false;
  const stop = () => {
    if (stopping) return;
    stopping = true;
    say('\nStopping. Containers go on running …');
    if (isAlive(target)) process.kill(target.pid, 'SIGTERM');
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, stop);

  const first = await Promise.race([ready, exited]);
  if (first !== true) {
    if (stopping) return { code: 130 };
    throw new SetupError(failure ?? `Baykeeper could not start: ${first.reason}. See ${logFile}.`);
  }
  printNext(paths, { port, detach, linked });
  if (detach) {
    child.disconnect();
    child.unref();
    return { code: 0 };
  }
  return {
    follow: async () => {
      const { code, reason } = await exited;
      if (stopping || code === 0) {
        say('Stopped.');
        return 0;
      }
      throw new SetupError(failure ?? `Baykeeper ended: ${reason}. See ${logFile}.`);
    },
  };
}

function printNext(paths, { port, detach, linked }) {
  const isDefault = paths.home === homePath();
  const file = path.join(root, 'cli', 'bayctl');
  // Only where that is what the shell finds.
  const isOnPath = linked && findProgram('bayctl') === machineLink;
  const bayctl = isOnPath ? 'bayctl' : `${isDefault ? '' : `BAYKEEPER_HOME=${paths.home} `}${file}`;
  const stop = isDefault ? 'npm stop' : `npm stop -- --home ${paths.home}`;
  say(`
Baykeeper is ready on http://127.0.0.1:${port}, with this machine as bay "local".
State and logs are in ${paths.home}

Try next${isOnPath ? ` (bayctl is ${machineLink}, a link to ${file})` : ''}:
  ${bayctl} get nodes -b local
  ${bayctl} run web -b local --image IMAGE -- COMMAND
  ${bayctl} get containers -b local

${detach ? `To stop it: ${stop}` : 'To stop it: Ctrl-C'}`);
}

function alreadyRuns(running, options) {
  const port = running.args[running.args.indexOf('--port') + 1];
  say(`Baykeeper already runs on http://127.0.0.1:${port} (process ${running.pid}).`);
  if (options.port && String(options.port) !== port)
    say(`To have it on port ${options.port}: npm stop, then start again.`);
  return 0;
}
