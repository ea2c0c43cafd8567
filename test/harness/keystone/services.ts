import { writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import path from 'node:path';
import process from 'node:process';
import { findProgram } from '../../../deploy/quickstart/process.mjs';
import { freePort } from '../free_port.ts';
import { Program, run } from '../program.ts';
import { until } from '../until.ts';

/** Seconds that a token lives unless a test says otherwise: as of a stock Keystone. */
export const tokenTtlSeconds = 3600;

/** Keystone, and the database and cache that it needs, on 127.0.0.1. */
export interface Services extends AsyncDisposable {
  /** Of Keystone: `http://127.0.0.1:PORT/v3`. Stays the same over restarts. */
  readonly url: string;
  /** One process: a signal to it is a signal to all of Keystone. */
  readonly keystone: Program;
  /** Runs statements in Keystone's database. */
  sql(statements: string): Promise<void>;
  /** Has tokens issued from the next start on live this long. */
  setTokenTtl(seconds: number): Promise<void>;
  /** Starts Keystone after it ended. Resolves when it answers. */
  start(): Promise<void>;
  /** Ends all in order, so that the data on disk is whole. */
  stop(): Promise<void>;
}

/** A pyenv or a venv of the user would break what Debian's Python runs. */
export const pythonEnvironment = { PYTHONPATH: undefined, PYTHONHOME: undefined, VIRTUAL_ENV: undefined };

export const configFile = (folder: string): string => path.join(folder, 'keystone.conf');

/** The path of a program that set-up brings. */
export function keystoneProgram(name: string): string {
  const found = findProgram(name);
  if (!found) throw new Error(`${name} is not on this machine. Set-up brings it: npm run setup`);
  return found;
}

/** Small, and without the syncs that only a crash would make use of. */
export const databaseArguments = (folder: string): string[] => [
  '--no-defaults',
  ...(process.getuid?.() === 0 ? ['--user=root'] : []),
  `--datadir=${path.join(folder, 'mysql')}`,
  '--innodb-log-file-size=8M',
  '--innodb-buffer-pool-size=32M',
];

const socketOf = (folder: string): string => path.join(folder, 'mysql.sock');

/** Starts MariaDB (on a socket only) for the data in `folder`. */
export async function startDatabase(folder: string): Promise<Program> {
  const database = new Program({
    command: [
      keystoneProgram('mariadbd'),
      ...databaseArguments(folder),
      `--socket=${socketOf(folder)}`,
      `--pid-file=${path.join(folder, 'mysql.pid')}`,
      '--skip-networking',
      '--skip-log-bin',
      '--innodb-flush-log-at-trx-commit=0',
      '--innodb-doublewrite=0',
      '--performance-schema=0',
      '--character-set-server=utf8mb3',
      '--collation-server=utf8mb3_general_ci',
    ],
    readyLine: /ready for connections/,
  });
  await database.start();
  return database;
}

/** Runs statements in a database of that MariaDB. */
export async function runSql(folder: string, database: string, statements: string): Promise<void> {
  const command = [keystoneProgram('mariadb'), '--no-defaults', '-uroot', '-S', socketOf(folder), database] as const;
  const { code, stderr } = await run([...command], { input: statements });
  if (code !== 0) throw new Error(`mariadb: ${stderr.trim()}`);
}

export interface ConfigOptions {
  readonly folder: string;
  readonly memcachedPort: number;
  readonly tokenTtlSeconds?: number;
  readonly withoutCache?: boolean;
}

/** Writes keystone.conf. */
export async function writeConfig(options: ConfigOptions): Promise<void> {
  const { folder, memcachedPort } = options;
  const text = `[DEFAULT]
use_stderr = true
[database]
connection = mysql+pymysql://root@localhost/keystone?unix_socket=${socketOf(folder)}&charset=utf8
[cache]
enabled = ${options.withoutCache !== true}
backend = dogpile.cache.memcached
memcache_servers = 127.0.0.1:${memcachedPort}
[token]
provider = fernet
expiration = ${options.tokenTtlSeconds ?? tokenTtlSeconds}
[fernet_tokens]
key_repository = ${path.join(folder, 'fernet-keys')}
[fernet_receipts]
key_repository = ${path.join(folder, 'fernet-keys')}
[credential]
key_repository = ${path.join(folder, 'credential-keys')}
[identity]
password_hash_rounds = 4
`;
  await writeFile(configFile(folder), text, { mode: 0o600 });
}

/** Starts all three for the data in `folder`. */
export async function startServices(folder: string): Promise<Services> {
  await using stack = new AsyncDisposableStack();
  const [memcachedPort, port] = [await freePort(), await freePort()];
  await writeConfig({ folder, memcachedPort });
  const memcached = new Program({
    command: [
      keystoneProgram('memcached'),
      ...(process.getuid?.() === 0 ? ['-u', 'root'] : []),
      ...['-l', '127.0.0.1', '-p', String(memcachedPort), '-U', '0', '-m', '16', '-t', '1'],
    ],
  });
  const keystone = new Program({
    command: uwsgiCommand(port),
    env: { ...pythonEnvironment, ...uwsgiEnvironment(folder) },
  });
  const url = `http://127.0.0.1:${port}/v3`;
  const start = async () => {
    await keystone.start();
    await until(
      'Keystone answers',
      async () => {
        if (!keystone.running) throw new KeystoneEnded(keystone.output.slice(-2_000));
        return (await fetch(url, { signal: AbortSignal.timeout(5_000) })).status === 200;
      },
      { timeoutMs: 60_000 },
    );
  };
  // The database is there before Keystone has read its own modules.
  const database = startDatabase(folder);
  const outcomes = Promise.allSettled([database]);
  stack.defer(async () => {
    await keystone.stop();
    await memcached.kill();
    const [started] = await outcomes;
    if (started.status === 'fulfilled') await started.value.stop();
  });
  await memcached.start();
  await until('memcached listens', () => listens(memcachedPort));
  await Promise.all([database, start()]);
  const running = stack.move();
  return {
    url,
    keystone,
    sql: (statements) => runSql(folder, 'keystone', statements),
    setTokenTtl: (seconds) => writeConfig({ folder, memcachedPort, tokenTtlSeconds: seconds }),
    start,
    stop: () => running.disposeAsync(),
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

class KeystoneEnded extends Error {
  override readonly name = 'KeystoneEnded';
}

/** What Debian's own keystone-uwsgi.ini has, in one process. */
function uwsgiCommand(port: number): [string, ...string[]] {
  const options: Record<string, string | true> = {
    'http-socket': `127.0.0.1:${port}`,
    plugins: 'python3',
    'wsgi-file': keystoneProgram('keystone-wsgi-public'),
    'enable-threads': true,
    'die-on-term': true,
    'need-app': true,
    'disable-logging': true,
    threads: '8',
    'buffer-size': '65535',
    'rem-header': 'Content-Length',
    'add-header': 'Connection: close',
  };
  const flags = Object.entries(options).flatMap(([name, value]) =>
    value === true ? [`--${name}`] : [`--${name}`, value],
  );
  return [keystoneProgram('uwsgi-core'), ...flags];
}

const uwsgiEnvironment = (folder: string) => ({ OS_KEYSTONE_CONFIG_FILES: configFile(folder) });

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
