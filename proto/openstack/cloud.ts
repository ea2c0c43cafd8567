import { CloudError } from './errors.ts';

/** A domain, by id or by name. */
export type DomainRef = { readonly id: string } | { readonly name: string };
/** A project or user: by id, or by name in a domain. */
export type ScopedRef = { readonly id: string } | { readonly name: string; readonly domain: DomainRef };

/** How one proves who one is. A secret that is undefined was not given: it may be asked for. */
export type Credential =
  | { readonly kind: 'password'; readonly user: ScopedRef; readonly password: string | undefined }
  | {
      readonly kind: 'applicationCredential';
      readonly credential: { readonly id: string } | { readonly name: string; readonly user: ScopedRef };
      readonly secret: string | undefined;
    }
  | { readonly kind: 'token'; readonly token: string };

/** What a token is asked for. An application credential has its own. */
export type Scope =
  | { readonly kind: 'project'; readonly project: ScopedRef }
  | { readonly kind: 'domain'; readonly domain: DomainRef }
  | { readonly kind: 'trust'; readonly id: string }
  | { readonly kind: 'system' }
  | { readonly kind: 'unscoped' };

/** A cloud, and who one is there: what the openstack client is told in clouds.yaml or `OS_*` variables. */
export interface Cloud {
  /** Of clouds.yaml; `envvars` when it is made of variables. */
  readonly name: string;
  /** The clouds.yaml that it is of. Undefined: it is made of variables. */
  readonly file?: string;
  /** Ends in `/v3`. */
  readonly authUrl: string;
  readonly credential: Credential;
  readonly scope: Scope;
  /** Empty: whichever. */
  readonly region: string;
  /** Of endpoints: `public`, `internal` or `admin`. Undefined: not said. */
  readonly interface: string | undefined;
  readonly tls: CloudTls;
}

/** Files in PEM. */
export interface CloudTls {
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
  /** False: whoever answers is believed. */
  readonly verify: boolean;
}

/** What is said of a cloud, before it is understood. `nameOf` gives a field the name that the user knows it by. */
export interface RawCloud {
  readonly name: string;
  readonly file?: string;
  readonly fields: Readonly<Record<string, unknown>>;
  readonly auth: Readonly<Record<string, unknown>>;
  nameOf(field: string): string;
}

/** Understands what is said of a cloud. Throws CloudError. */
export function parseCloud(raw: RawCloud): Cloud {
  const fail = (field: string, expected: string) => new CloudError(`${raw.nameOf(field)}: ${expected}`);
  const text = (field: string, from = raw.auth): string => {
    const value = from[field];
    if (value === undefined || value === null) return '';
    if (typeof value === 'string') return value;
    throw fail(field, 'expected a string');
  };
  const setting = (field: string) => text(field, raw.fields);
  const defaultDomain: DomainRef = text('default_domain_name')
    ? { name: text('default_domain_name') }
    : { id: text('default_domain_id') || setting('default_domain') || 'default' };
  const isOfProject = ['project_id', 'tenant_id', 'project_name', 'tenant_name'].some((field) => text(field) !== '');
  const domainAt = (prefix: string): DomainRef | undefined => {
    const [id, name] = [text(`${prefix}_id`), text(`${prefix}_name`)];
    return id ? { id } : name ? { name } : undefined;
  };
  // Beside a project, `domain_name` is not what the token is for, but where user and project are.
  const domain = (prefix: string): DomainRef =>
    domainAt(prefix) ?? (isOfProject ? domainAt('domain') : undefined) ?? defaultDomain;
  const user = (): ScopedRef | undefined => {
    const [id, name] = [text('user_id'), text('username') || text('user_name')];
    return id ? { id } : name ? { name, domain: domain('user_domain') } : undefined;
  };

  const version = setting('identity_api_version') || '3';
  if (!/^3(\.\d+)?$/.test(version)) throw fail('identity_api_version', `version 3 is spoken here, not ${version}`);
  return {
    name: raw.name,
    ...(raw.file && { file: raw.file }),
    authUrl: authUrl(text('auth_url'), (expected) => fail('auth_url', expected)),
    credential: credential(),
    scope: scope(),
    region: setting('region_name'),
    interface: interfaceOf(setting('interface') || setting('endpoint_type')),
    tls: {
      ...(setting('cacert') && { caFile: setting('cacert') }),
      ...(setting('cert') && { certFile: setting('cert') }),
      ...(setting('key') && { keyFile: setting('key') }),
      verify: flag('verify', true) && !flag('insecure', false),
    },
  };

  function credential(): Credential {
    const type = (setting('auth_type') || guessType()).replace(/^v3/, '');
    if (type === 'token') {
      if (!text('token')) throw fail('token', 'expected a token');
      return { kind: 'token', token: text('token') };
    }
    if (type === 'applicationcredential') {
      const [id, name, secret] = ['id', 'name', 'secret'].map((part) => text(`application_credential_${part}`));
      const owner = user();
      if (!id && !(name && owner)) {
        throw fail('application_credential_id', 'expected an id, or a name and a user that it belongs to');
      }
      const ref = id ? { id } : { name: name ?? '', user: owner ?? { id: '' } };
      return { kind: 'applicationCredential', credential: ref, secret: secret || undefined };
    }
    if (type === 'password') {
      const who = user();
      if (!who) throw fail('username', 'expected the name of a user, or user_id');
      return { kind: 'password', user: who, password: text('password') || undefined };
    }
    throw fail('auth_type', `expected password, v3applicationcredential or token, not ${setting('auth_type')}`);
  }

  function guessType(): string {
    if (text('application_credential_id') || text('application_credential_secret')) return 'applicationcredential';
    return text('token') && !text('password') ? 'token' : 'password';
  }

  function scope(): Scope {
    if (text('trust_id')) return { kind: 'trust', id: text('trust_id') };
    if (text('system_scope')) return { kind: 'system' };
    const id = text('project_id') || text('tenant_id');
    const name = text('project_name') || text('tenant_name');
    if (id) return { kind: 'project', project: { id } };
    if (name) return { kind: 'project', project: { name, domain: domain('project_domain') } };
    if (text('domain_id') || text('domain_name')) return { kind: 'domain', domain: domain('domain') };
    return { kind: 'unscoped' };
  }

  function flag(field: string, without: boolean): boolean {
    const value = raw.fields[field];
    if (value === undefined || value === null || value === '') return without;
    if (typeof value === 'boolean') return value;
    const said = String(value).toLowerCase();
    if (['true', '1', 'yes', 'on'].includes(said)) return true;
    if (['false', '0', 'no', 'off'].includes(said)) return false;
    throw fail(field, 'expected true or false');
  }

  function interfaceOf(given: string): string | undefined {
    if (!given) return undefined;
    const name = given.replace(/URL$/, '');
    if (['public', 'internal', 'admin'].includes(name)) return name;
    throw fail('interface', `expected public, internal or admin, not ${given}`);
  }
}

/** With `/v3` at its end, as the openstack client finds it, too. */
function authUrl(given: string, fail: (expected: string) => CloudError): string {
  if (!given) throw fail('expected the address of Keystone, such as https://keystone.example.org:5000/v3');
  return identityUrl(given, fail);
}

/** The address of version 3 of an identity service. Throws what `fail` makes of what was expected. */
export function identityUrl(given: string, fail: (expected: string) => Error): string {
  const url = URL.canParse(given) ? new URL(given) : undefined;
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.password || url.search || url.hash) {
    throw fail(`expected the address of Keystone, such as https://keystone.example.org:5000/v3, not "${given}"`);
  }
  const path = url.pathname.replace(/\/+$/, '');
  if (/\/v2(\.\d)?$/.test(path)) throw fail('this is version 2 of the API: version 3 is spoken here');
  return `${url.origin}${path.endsWith('/v3') ? path : `${path}/v3`}`;
}

/** Whether an address leads to this machine alone. */
export function isLoopback(url: string): boolean {
  const { hostname } = new URL(url);
  return hostname === 'localhost' || hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(hostname);
}
