import { cp } from 'node:fs/promises';
import path from 'node:path';
import { temporaryFolder } from '../temporary_folder.ts';
import { issue, issueToken, type KeystoneAnswer, type KeystoneRequest, request, type Scope } from './api.ts';
import { type Services, startServices } from './services.ts';
import { type Identities, keystoneTemplate, readIdentities, templateParts, type UserName } from './template.ts';

/** A Keystone of Debian's packages, with the projects red and blue, and users with each role. */
export interface Keystone extends AsyncDisposable, Identities {
  /** `http://127.0.0.1:PORT/v3`. Stays the same over restarts. */
  readonly url: string;
  readonly folder: string;
  /** The process of its API. */
  readonly program: Services['keystone'];
  /** Logs in, by password. Default scope: `red`. */
  token(user: UserName, scope?: Scope): Promise<string>;
  /** A token for any request to be let in with: the `auth` of `POST /v3/auth/tokens`. */
  issue(auth: object): Promise<string>;
  /** As the cloud's administrator, unless `token` says otherwise. Any status is an answer. */
  request(method: string, path: string, options?: KeystoneRequest): Promise<KeystoneAnswer>;
  /** Like `request`, but throws unless it is done. */
  change(method: string, path: string, body?: object): Promise<KeystoneAnswer['body']>;
  /** Ends the API; database and cache stay. */
  stop(): Promise<void>;
  /** Starts it again. `tokenTtlSeconds`: how long tokens live from now on. */
  start(options?: { readonly tokenTtlSeconds?: number }): Promise<void>;
  /** Has it take connections, and say nothing. */
  pause(): Promise<void>;
  resume(): Promise<void>;
}

/** Starts one, in about four seconds. Needs what set-up brings. */
export async function startKeystone(): Promise<Keystone> {
  await using stack = new AsyncDisposableStack();
  const template = await keystoneTemplate();
  const folder = stack.use(await temporaryFolder('keystone')).path;
  await Promise.all(
    templateParts.map((part) => cp(path.join(template, part), path.join(folder, part), { recursive: true })),
  );
  const services = stack.use(await startServices(folder));
  const { url } = services;
  await services.sql(`update endpoint set url = '${url}';`);
  const identities = await readIdentities(folder);
  let adminToken = '';
  const asAdmin = async (method: string, at: string, options: KeystoneRequest = {}): Promise<KeystoneAnswer> => {
    if (options.token !== undefined) return request(url, method, at, options);
    if (adminToken === '') adminToken = await issueToken(url, 'admin', { project: 'admin' });
    const answer = await request(url, method, at, { ...options, token: adminToken });
    if (answer.status !== 401) return answer;
    adminToken = await issueToken(url, 'admin', { project: 'admin' });
    return request(url, method, at, { ...options, token: adminToken });
  };
  const started = stack.move();
  return {
    url,
    folder,
    ...identities,
    program: services.keystone,
    token: (user, scope = { project: 'red' }) => issueToken(url, user, scope),
    issue: (auth) => issue(url, auth),
    request: asAdmin,
    async change(method, at, body) {
      const answer = await asAdmin(method, at, { body });
      if (answer.status >= 300) throw new Error(`${method} ${at}: ${answer.status} ${JSON.stringify(answer.body)}`);
      return answer.body;
    },
    async stop() {
      await services.keystone.stop();
    },
    async start({ tokenTtlSeconds } = {}) {
      if (tokenTtlSeconds !== undefined) await services.setTokenTtl(tokenTtlSeconds);
      await services.start();
    },
    pause: () => services.keystone.signal('SIGSTOP'),
    resume: () => services.keystone.signal('SIGCONT'),
    [Symbol.asyncDispose]: () => started.disposeAsync(),
  };
}
