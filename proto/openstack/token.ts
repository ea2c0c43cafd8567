import { KeystoneError } from './errors.ts';

/** Something with an id that never changes, and a name that people know it by. */
export interface Named {
  readonly id: string;
  readonly name: string;
}

/** What Keystone says that a token stands for (https://docs.openstack.org/api-ref/identity/v3/#validate-and-show-information-for-token). */
export interface TokenInfo {
  readonly user: Named & { readonly domain: Named };
  /** What it is for. Neither project nor domain nor system: it is unscoped. */
  readonly project?: ProjectInfo;
  readonly domain?: Named;
  readonly system: boolean;
  /** Names, implied roles among them. */
  readonly roles: readonly string[];
  /** Whether the project is the one whose admins are admins of the cloud. True where a cloud has no such project. */
  readonly isAdminProject: boolean;
  /** Unix milliseconds. */
  readonly expireTimeMs: number;
  /** Where services are; empty when it was not asked for. */
  readonly catalog: readonly CatalogEntry[];
}

/** A project. */
export interface ProjectInfo extends Named {
  readonly domain: Named;
  /** Whether it is a domain that acts as one. */
  readonly isDomain: boolean;
}

/** An endpoint of a service. */
export interface CatalogEntry {
  /** `identity`. */
  readonly type: string;
  /** `public`, `internal` or `admin`. */
  readonly interface: string;
  readonly region: string;
  readonly url: string;
}

/** Reads the body of an answer about a token. Throws KeystoneError (`invalid`) that names what is not as the API says. */
export function parseToken(body: unknown): TokenInfo {
  const token = mapping(mapping(body, 'the answer').token, 'token');
  const user = mapping(token.user, 'token.user');
  const roles = list(token.roles ?? [], 'token.roles').map((role) =>
    text(mapping(role, 'token.roles').name, 'role.name'),
  );
  return {
    user: {
      ...named(user, 'token.user'),
      domain: named(mapping(user.domain, 'token.user.domain'), 'token.user.domain'),
    },
    ...(token.project === undefined ? {} : { project: project(token.project, token.is_domain === true) }),
    ...(token.domain === undefined ? {} : { domain: named(mapping(token.domain, 'token.domain'), 'token.domain') }),
    system: token.system !== undefined && mapping(token.system, 'token.system').all === true,
    roles,
    isAdminProject: token.is_admin_project !== false,
    expireTimeMs: time(token.expires_at, 'token.expires_at'),
    catalog: list(token.catalog ?? [], 'token.catalog').flatMap(entries),
  };
}

function project(value: unknown, isDomain: boolean): ProjectInfo {
  const given = mapping(value, 'token.project');
  return {
    ...named(given, 'token.project'),
    domain: named(mapping(given.domain, 'token.project.domain'), 'token.project.domain'),
    isDomain,
  };
}

function entries(value: unknown): CatalogEntry[] {
  const service = mapping(value, 'token.catalog');
  const type = text(service.type, 'token.catalog.type');
  return list(service.endpoints ?? [], 'token.catalog.endpoints').map((each) => {
    const endpoint = mapping(each, 'token.catalog.endpoints');
    return {
      type,
      interface: text(endpoint.interface, 'endpoint.interface'),
      region: typeof endpoint.region === 'string' ? endpoint.region : '',
      url: text(endpoint.url, 'endpoint.url'),
    };
  });
}

const named = (value: Record<string, unknown>, where: string): Named => ({
  id: text(value.id, `${where}.id`),
  name: text(value.name, `${where}.name`),
});

function mapping(value: unknown, where: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw unexpected(where, 'an object');
}

function list(value: unknown, where: string): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw unexpected(where, 'a list');
}

/** Names in Keystone have 255 characters at most, addresses are not much longer. */
function text(value: unknown, where: string): string {
  if (typeof value === 'string' && value !== '' && value.length <= 2_048) return value;
  throw unexpected(where, 'a string');
}

/** Those of tokens from an application credential with an expiry say no time zone: they, too, are UTC. */
function time(value: unknown, where: string): number {
  const match = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?)(Z|[+-]\d\d:\d\d)?$/.exec(
    typeof value === 'string' ? value : '',
  );
  const ms = match ? Date.parse(`${match[1]}${match[2] ?? 'Z'}`) : Number.NaN;
  if (Number.isNaN(ms)) throw unexpected(where, 'a time');
  return ms;
}

const unexpected = (where: string, expected: string): KeystoneError =>
  new KeystoneError('invalid', `Keystone answered what cannot be understood: ${where}: expected ${expected}`);
