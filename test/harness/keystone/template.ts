import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { withLock } from '../../../deploy/quickstart/lock.mjs';
import { cacheFolder } from '../kubernetes/binaries.ts';
import { run } from '../program.ts';
import { temporaryFolder } from '../temporary_folder.ts';
import { issueToken, password, request } from './api.ts';
import {
  configFile,
  databaseArguments,
  keystoneProgram,
  pythonEnvironment,
  runSql,
  startDatabase,
  startServices,
  writeConfig,
} from './services.ts';

/** Goes up when what a template holds changes. */
const recipe = 1;

/** Ids of what the fixture makes, by name. */
export interface Identities {
  readonly projects: Readonly<Record<ProjectName, string>>;
  readonly users: Readonly<Record<UserName, string>>;
  readonly roles: Readonly<Record<RoleName, string>>;
}

const projectNames = ['admin', 'service', 'red', 'blue'] as const;
const roleNames = ['admin', 'member', 'reader', 'service', 'operator'] as const;
/** Users, and their roles in projects. All are of the domain Default, and have the fixture's password. */
const grants = {
  /** The cloud's administrator; admin of the domain Default and of the system, too. */
  admin: { admin: ['admin'] },
  /** What the control plane validates tokens as: nothing but that. */
  baykeeper: { service: ['service'] },
  alice: { red: ['member'] },
  bob: { blue: ['member'] },
  rita: { red: ['reader'] },
  carol: { red: ['reader'], blue: ['member'] },
  /** Has a role of a name that is only that cloud's. */
  oscar: { red: ['operator'] },
} as const satisfies Record<string, Partial<Record<ProjectName, readonly RoleName[]>>>;

export type ProjectName = (typeof projectNames)[number];
export type RoleName = (typeof roleNames)[number];
export type UserName = keyof typeof grants;

/** Folders and files of a template that a fixture copies. */
export const templateParts = ['mysql', 'fernet-keys', 'credential-keys', 'identities.json'] as const;

/**
 * A folder with the data of a Keystone that has its tables, keys and identities: made once for each version of Debian's packages (about 20 s), and
 * kept for every checkout of the user. A folder of this name is complete.
 */
export async function keystoneTemplate(say: (text: string) => void = () => undefined): Promise<string> {
  const cache = cacheFolder();
  const folder = await templateFolder();
  if (await isThere(folder)) return folder;
  await withLock(path.join(cache, 'keystone.lock'), { say, waitingFor: 'another set-up of Keystone' }, async () => {
    if (await isThere(folder)) return;
    // A short path, as the database's socket is in it.
    await using work = await temporaryFolder('keystone');
    await fill(work.path);
    const partial = `${folder}.partial`;
    // Of one that was killed.
    await rm(partial, { recursive: true, force: true });
    for (const part of templateParts)
      await cp(path.join(work.path, part), path.join(partial, part), { recursive: true });
    await rename(partial, folder);
  });
  return folder;
}

export async function readIdentities(folder: string): Promise<Identities> {
  return JSON.parse(await readFile(path.join(folder, 'identities.json'), 'utf8')) as Identities;
}

/** Whether the next fixture starts at once. */
export const hasKeystoneTemplate = async (): Promise<boolean> => isThere(await templateFolder());

const templateFolder = async (): Promise<string> =>
  path.join(cacheFolder(), `keystone-${await packageVersions()}-${recipe}`);

const isThere = (folder: string): Promise<boolean> =>
  readIdentities(folder).then(
    () => true,
    () => false,
  );

/** `22.0.2-0+deb12u6-10.11.19-0+deb12u1`: data of one version are not another's to read. */
async function packageVersions(): Promise<string> {
  const { stdout } = await promisify(execFile)('dpkg-query', ['-W', 'python3-keystone', 'mariadb-server-core']);
  return stdout
    .trim()
    .split('\n')
    .map((line) => (line.split('\t')[1] ?? '').replace(/^\d+:/, ''))
    .sort()
    .join('-');
}

async function fill(folder: string): Promise<void> {
  await initialise(folder);
  const services = await startServices(folder);
  try {
    await makeIdentities(folder, services.url);
  } finally {
    await services.stop();
  }
}

/** Tables, keys, and the first user. */
async function initialise(folder: string): Promise<void> {
  const [, ...options] = databaseArguments(folder);
  await ran([
    keystoneProgram('mariadb-install-db'),
    ...['--no-defaults', ...options],
    ...['--auth-root-authentication-method=normal', '--skip-test-db', '--skip-name-resolve'],
  ]);
  const database = await startDatabase(folder);
  try {
    await runSql(folder, 'mysql', 'create database keystone character set utf8mb3;');
    // No server of it is there to be asked, and none is needed for this.
    await writeConfig({ folder, memcachedPort: 1, withoutCache: true });
    const manage = (...args: string[]) =>
      ran([keystoneProgram('keystone-manage'), '--config-file', configFile(folder), ...args]);
    await Promise.all(['fernet-keys', 'credential-keys'].map((name) => makeKeys(path.join(folder, name))));
    await manage('db_sync');
    await manage(
      'bootstrap',
      ...['--bootstrap-username', 'admin', '--bootstrap-password', password, '--bootstrap-project-name', 'admin'],
      ...[
        '--bootstrap-role-name',
        'admin',
        '--bootstrap-service-name',
        'keystone',
        '--bootstrap-region-id',
        'RegionOne',
      ],
      // Each copy gets the port of its own.
      ...['public', 'internal', 'admin'].flatMap((kind) => [`--bootstrap-${kind}-url`, 'http://127.0.0.1:1/v3']),
    );
  } finally {
    await database.stop();
  }
}

/** As `keystone-manage fernet_setup` does, for whoever runs the tests: the next key, and the one in use. */
async function makeKeys(folder: string): Promise<void> {
  await mkdir(folder, { mode: 0o700 });
  for (const name of ['0', '1']) {
    // Fernet wants the padding, too.
    await writeFile(path.join(folder, name), `${randomBytes(32).toString('base64url')}=`, { mode: 0o600 });
  }
}

async function makeIdentities(folder: string, url: string): Promise<void> {
  const token = await issueToken(url, 'admin', { project: 'admin' });
  const send = async (method: string, at: string, body?: object) => {
    const answer = await request(url, method, at, { token, body });
    if (answer.status >= 300) throw new Error(`${method} ${at}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body;
  };
  /** Makes those that are not there. */
  const make = async <Name extends string>(kind: string, names: readonly Name[], more: object = {}) => {
    const there: { id: string; name: string }[] = (await send('GET', `/${kind}s`))[`${kind}s`];
    const ids = {} as Record<Name, string>;
    for (const name of names) {
      const found = there.find((one) => one.name === name);
      ids[name] = found?.id ?? (await send('POST', `/${kind}s`, { [kind]: { name, ...more } }))[kind].id;
    }
    return ids;
  };
  const userNames = Object.keys(grants) as UserName[];
  const projects = await make('project', projectNames);
  const roles = await make('role', roleNames);
  const users = await make('user', userNames, { password });
  for (const user of userNames) {
    for (const [project, names] of Object.entries(grants[user]) as [ProjectName, readonly RoleName[]][]) {
      for (const role of names) {
        await send('PUT', `/projects/${projects[project]}/users/${users[user]}/roles/${roles[role]}`);
      }
    }
  }
  await send('PUT', `/domains/default/users/${users.admin}/roles/${roles.admin}`);
  await send('POST', '/regions', { region: { id: 'RegionTwo' } });
  await writeFile(
    path.join(folder, 'identities.json'),
    JSON.stringify({ projects, users, roles } satisfies Identities),
  );
}

async function ran(command: readonly [string, ...string[]]): Promise<void> {
  const { code, stdout, stderr } = await run(command, { env: pythonEnvironment, timeoutMs: 120_000 });
  if (code !== 0) throw new Error(`${path.basename(command[0])}: ${code}: ${`${stdout}${stderr}`.slice(-2_000)}`);
}
