import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { reasonOf, SetupError } from './process.mjs';

/** Port numbers when nothing else is said: the API's, and the broker's (not NATS's usual 4222, where another may well listen). */
export const defaultPorts = { port: 7480, natsPort: 7482 };

/** What `npm start` is asked to do. Throws SetupError that names a wrong argument. */
export function parseArguments(args) {
  const options = { detach: false, help: false };
  const rest = [...args];
  while (rest.length > 0) {
    const [name, inline] = splitArgument(rest.shift());
    const value = () => inline ?? rest.shift();
    if (name === '--detach' || name === '-d') options.detach = true;
    else if (name === '--help' || name === '-h') options.help = true;
    else if (name === '--port') options.port = parsePort(name, value());
    else if (name === '--nats-port') options.natsPort = parsePort(name, value());
    else if (name === '--home') options.home = parseFolder(name, value());
    else throw new SetupError(`There is no option ${name}. See npm start -- --help.`);
  }
  return options;
}

function splitArgument(text) {
  const at = text.startsWith('--') ? text.indexOf('=') : -1;
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

function parsePort(name, text) {
  const port = Number(text);
  if (!/^\d+$/.test(text ?? '') || port < 1 || port > 65_535)
    throw new SetupError(`${name}: expected a port from 1 to 65535, not ${text ?? 'nothing'}.`);
  return port;
}

function parseFolder(name, text) {
  if (!text) throw new SetupError(`${name}: expected a folder.`);
  return text;
}

/** The state folder: the option, else BAYKEEPER_HOME, else ~/.baykeeper. As a path without links. */
export function homePath(option) {
  const folder = path.resolve(option || process.env.BAYKEEPER_HOME || path.join(os.homedir(), '.baykeeper'));
  return existsSync(folder) ? realpathSync(folder) : folder;
}

/** Paths in a state folder. */
export function homePaths(home) {
  return {
    home,
    logs: path.join(home, 'logs'),
    controlPlane: path.join(home, 'control-plane'),
    agent: path.join(home, 'agent'),
    settings: path.join(home, 'quickstart.json'),
    bayctl: path.join(home, 'bayctl.yaml'),
    lock: path.join(home, 'start.lock'),
  };
}

/** Makes the state folder where there is none. Throws SetupError when it cannot be one. */
export function openHome(home) {
  try {
    makeFolder(home);
  } catch (error) {
    throw new SetupError(
      `The state folder ${home} cannot be made: ${reasonOf(error)}. Name another with --home or BAYKEEPER_HOME.`,
    );
  }
  const paths = homePaths(realpathSync(home));
  try {
    accessSync(paths.home, constants.R_OK | constants.W_OK | constants.X_OK);
    for (const folder of [paths.logs, paths.controlPlane, paths.agent])
      mkdirSync(folder, { recursive: true, mode: 0o700 });
    // Keys and the admin's token are in there.
    if (statSync(paths.home).uid === process.getuid()) chmodSync(paths.home, 0o700);
  } catch (error) {
    throw new SetupError(`The state folder ${home} cannot be written to: ${reasonOf(error)}.`);
  }
  return paths;
}

/** With the folders above it. Node's own way never ends on file systems in which nothing can be made, such as /proc. */
function makeFolder(folder) {
  if (existsSync(folder)) {
    if (!statSync(folder).isDirectory()) throw Object.assign(new Error('not a folder'), { code: 'EEXIST' });
    return;
  }
  if (!existsSync(path.dirname(folder))) makeFolder(path.dirname(folder));
  mkdirSync(folder, { mode: 0o700 });
}

/** What an earlier start was told, so that a later one need not be told again. Throws SetupError when the file is not what this wrote. */
export function readSettings(paths) {
  let text;
  try {
    text = readFileSync(paths.settings, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return {};
    throw new SetupError(`The state folder is broken: ${paths.settings} cannot be read (${reasonOf(error)}).`);
  }
  try {
    const { port, natsPort } = JSON.parse(text);
    for (const value of [port, natsPort]) {
      if (!Number.isInteger(value) || value < 1 || value > 65_535) throw new Error('ports expected');
    }
    return { port, natsPort };
  } catch {
    throw new SetupError(
      `The state folder is broken: ${paths.settings} does not hold the settings that npm start wrote. Remove it to start with the default ports.`,
    );
  }
}

/** Writes the settings, and what bayctl needs to find the control plane. */
export function writeSettings(paths, { port, natsPort }) {
  replaceFile(paths.settings, `${JSON.stringify({ port, natsPort }, undefined, 2)}\n`);
  const lines = [
    '# Written by npm start: how bayctl finds the control plane of this folder.',
    `server: http://127.0.0.1:${port}`,
    'token_file: control-plane/admin.token',
    'bay: local',
  ];
  replaceFile(paths.bayctl, `${lines.join('\n')}\n`);
}

function replaceFile(file, text) {
  try {
    writeFileSync(`${file}.new`, text, { mode: 0o600 });
    renameSync(`${file}.new`, file);
  } catch (error) {
    throw new SetupError(`${file} cannot be written: ${reasonOf(error)}.`);
  }
}

/** Throws SetupError when something listens on the port already, or this user may not. */
export async function checkPort(port, option) {
  const failure = await new Promise((resolve) => {
    const server = net.createServer();
    server.once('error', (error) => resolve(error));
    server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(undefined)));
  });
  if (!failure) return;
  if (failure.code === 'EADDRINUSE')
    throw new SetupError(`Port ${port} is in use by another program. Choose another: npm start -- ${option} NUMBER`);
  throw new SetupError(
    `Port ${port} cannot be used: ${reasonOf(failure)}. Choose another: npm start -- ${option} NUMBER`,
  );
}
