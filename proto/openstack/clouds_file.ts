import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { parseDocument, type Tags } from 'yaml';
import { type Cloud, type CloudTls, parseCloud } from './cloud.ts';
import { CloudError } from './errors.ts';

/** Where to look for what is said of a cloud. */
export interface CloudSource {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly home: string;
  /** Where clouds.yaml is looked for first. */
  readonly cwd: string;
  /** Over `OS_CLOUD`. */
  readonly cloud?: string | undefined;
  /** The clouds.yaml, over `OS_CLIENT_CONFIG_FILE` and where it is looked for. */
  readonly file?: string | undefined;
}

/** The name of the cloud that the `OS_*` variables make. */
export const environmentCloud = 'envvars';

/**
 * Finds a cloud as the openstack client does: one of clouds.yaml that is named (`OS_CLOUD`), else what the `OS_*` variables say when there
 * is `OS_AUTH_URL`, else the only one of clouds.yaml. Secrets may be in secure.yaml, what many clouds share in clouds-public.yaml. What
 * clouds.yaml does not say of user, project and secret may be in the variables. Rejects with CloudError.
 */
export async function findCloud(source: CloudSource): Promise<Cloud> {
  const cloud = await find(source);
  return { ...cloud, tls: withPaths(cloud.tls, source) };
}

async function find(source: CloudSource): Promise<Cloud> {
  const { env } = source;
  const named = source.cloud || env.OS_CLOUD;
  if (named === environmentCloud || (!named && !source.file && env.OS_AUTH_URL)) return environment(env);
  const clouds = await readClouds('clouds', source, source.file || env.OS_CLIENT_CONFIG_FILE);
  if (!clouds) {
    throw new CloudError(
      named
        ? `there is no clouds.yaml to find the cloud "${named}" in (${searchPath(source).join(', ')})`
        : 'there is neither a clouds.yaml nor OS_AUTH_URL: say which cloud, as for the openstack client',
    );
  }
  const names = Object.keys(clouds.entries);
  const name = named || (names.length === 1 ? names[0] : undefined);
  if (!name) throw new CloudError(`${clouds.file} has several clouds: say which (${names.join(', ')})`);
  const entry = Object.hasOwn(clouds.entries, name) ? clouds.entries[name] : undefined;
  if (entry === undefined)
    throw new CloudError(`${clouds.file}: there is no cloud "${name}"; there are: ${names.join(', ')}`);
  const where = `${clouds.file}: clouds.${name}`;
  const [own, shared, secrets] = await Promise.all([
    mapping(entry ?? {}, where),
    profile(source, entry, where),
    readClouds('secure', source, env.OS_CLIENT_SECURE_FILE),
  ]);
  const secret = secrets && Object.hasOwn(secrets.entries, name) ? secrets.entries[name] : undefined;
  const merged = [own, mapping(secret ?? {}, `${secrets?.file}: clouds.${name}`)].reduce(merge, shared);
  const fields = withRegion(merged, env.OS_REGION_NAME, where);
  // What belongs there may be beside it, too.
  const auth = { ...fields, ...mapping(fields.auth ?? {}, `${where}.auth`) };
  return parseCloud({
    name,
    file: path.resolve(clouds.file),
    fields,
    auth: { ...auth, ...leftOut(auth, env) },
    nameOf: (field) => `${where}${isSetting(field) ? '' : '.auth'}.${field}`,
  });
}

const settings: Readonly<Record<string, string>> = {
  auth_type: 'OS_AUTH_TYPE',
  identity_api_version: 'OS_IDENTITY_API_VERSION',
  region_name: 'OS_REGION_NAME',
  interface: 'OS_INTERFACE',
  endpoint_type: 'OS_ENDPOINT_TYPE',
  default_domain: 'OS_DEFAULT_DOMAIN',
  cacert: 'OS_CACERT',
  cert: 'OS_CERT',
  key: 'OS_KEY',
  insecure: 'OS_INSECURE',
  verify: '',
};

const isSetting = (field: string): boolean => Object.hasOwn(settings, field);

function environment(env: CloudSource['env']): Cloud {
  const fields: Record<string, unknown> = {};
  for (const [field, variable] of Object.entries(settings)) fields[field] = env[variable] || undefined;
  const auth: Record<string, unknown> = {};
  for (const [variable, value] of Object.entries(env)) {
    if (variable.startsWith('OS_') && value) auth[variable.slice('OS_'.length).toLowerCase()] = value;
  }
  const nameOf = (field: string): string => settings[field] || `OS_${field.toUpperCase()}`;
  return parseCloud({ name: environmentCloud, fields, auth, nameOf });
}

/** Fields that say the same thing, each in its own way; and where that is, which is asked for only with it. */
interface Alternatives {
  readonly fields: readonly string[];
  readonly domain?: readonly string[];
}
const password: Alternatives = { fields: ['password'] };
const secret: Alternatives = { fields: ['application_credential_secret'] };
const user: Alternatives = {
  fields: ['username', 'user_name', 'user_id'],
  domain: ['user_domain_id', 'user_domain_name'],
};
const scope: Alternatives = {
  fields: [
    ...['project_id', 'project_name', 'tenant_id', 'tenant_name'],
    ...['trust_id', 'system_scope', 'domain_id', 'domain_name'],
  ],
  domain: ['project_domain_id', 'project_domain_name'],
};

/** What the variables say of what a cloud does not. A secret of another kind than its own may be there for another cloud. */
function leftOut(auth: Fields, env: CloudSource['env']): Fields {
  const isSaid = (fields: readonly string[]) => fields.some((field) => auth[field]);
  const isRobot = isSaid(['application_credential_id', 'application_credential_name']);
  const wanted = isRobot ? [secret] : auth.token ? [scope] : [user, password, scope];
  const missing = wanted
    .filter(({ fields }) => !isSaid(fields))
    .flatMap(({ fields, domain = [] }) => [...fields, ...(isSaid(domain) ? [] : domain)]);
  const found = missing.map((field) => [field, env[`OS_${field.toUpperCase()}`]] as const);
  return Object.fromEntries(found.filter(([, value]) => value));
}

/** Files as they are from any folder; `~` is the user's home. */
function withPaths({ verify, ...files }: CloudTls, { home, cwd }: CloudSource): CloudTls {
  const whole = Object.entries(files).map(([field, file]) => [
    field,
    path.resolve(cwd, file === '~' || file.startsWith('~/') ? path.join(home, file.slice(1)) : file),
  ]);
  return { ...Object.fromEntries(whole), verify };
}

/** What is shared with others: an entry of clouds-public.yaml. */
async function profile(source: CloudSource, entry: unknown, where: string): Promise<Fields> {
  const { profile: name, cloud } = mapping(entry ?? {}, where);
  const wanted = name ?? cloud;
  if (wanted === undefined) return {};
  const found = await readClouds('clouds-public', source, undefined);
  const shared =
    typeof wanted === 'string' && found && Object.hasOwn(found.entries, wanted) ? found.entries[wanted] : undefined;
  if (shared === undefined) {
    throw new CloudError(
      `${where}.profile: "${String(wanted)}" is not in a clouds-public.yaml, and no others are known here`,
    );
  }
  return mapping(shared, `${found?.file}: public-clouds.${String(wanted)}`);
}

/** With what the entry says of one region, the first unless another is wanted. */
function withRegion(fields: Fields, wanted: string | undefined, where: string): Fields {
  const { regions } = fields;
  const chosen = wanted || fields.region_name;
  if (regions === undefined || regions === null) return chosen ? { ...fields, region_name: chosen } : fields;
  if (!Array.isArray(regions)) throw new CloudError(`${where}.regions: expected a list`);
  const all = regions.map((region: unknown) => {
    if (typeof region === 'string') return { name: region, values: {} };
    const { name, values } = mapping(region, `${where}.regions`);
    return { name, values: mapping(values ?? {}, `${where}.regions.values`) };
  });
  const region = chosen ? all.find(({ name }) => name === chosen) : all[0];
  if (!region) {
    const names = all.map(({ name }) => String(name)).join(', ');
    throw new CloudError(`${where}.regions: there is no region "${String(chosen)}"; there are: ${names}`);
  }
  return { ...merge(fields, region.values), region_name: region.name };
}

type Fields = Readonly<Record<string, unknown>>;

interface CloudsFile {
  readonly file: string;
  readonly entries: Fields;
}

const searchPath = ({ cwd, home, env }: CloudSource): string[] => [
  cwd,
  path.join(env.XDG_CONFIG_HOME || path.join(home, '.config'), 'openstack'),
  '/etc/openstack',
];

/** The first file of this name. Undefined: there is none. */
async function readClouds(
  name: string,
  source: CloudSource,
  given: string | undefined,
): Promise<CloudsFile | undefined> {
  const files = given
    ? [given]
    : searchPath(source).flatMap((folder) =>
        ['yaml', 'yml', 'json'].map((ending) => path.join(folder, `${name}.${ending}`)),
      );
  for (const file of files) {
    const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (!given && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return undefined;
      throw new CloudError(`cannot read ${file}: ${error.message}`, { cause: error });
    });
    if (text === undefined) continue;
    const key = name === 'clouds-public' ? 'public-clouds' : 'clouds';
    const entries = mapping(mapping(parsed(text, file), file)[key] ?? {}, `${file}: ${key}`);
    return { file, entries: Object.fromEntries(Object.entries(entries).map(([of, each]) => [of, underscored(each)])) };
  }
  return undefined;
}

function parsed(text: string, file: string): unknown {
  const document = parseDocument(text, { merge: true, customTags: withoutNumbers, logLevel: 'silent' });
  const [broken] = document.errors;
  // Nothing of the parser's own message, which shows lines of the file, and a secret with them.
  if (broken) throw new CloudError(`${file} is not YAML: ${broken.code} in line ${broken.linePos?.[0].line ?? '?'}`);
  try {
    return document.toJS() ?? {};
  } catch {
    throw new CloudError(`${file} is not YAML: its aliases cannot be resolved`);
  }
}

/** Ids and passwords of digits are what is written, and not the number that comes nearest. */
const withoutNumbers = (tags: Tags): Tags =>
  tags.filter((tag) => typeof tag === 'string' || !/:(?:int|float)$/.test(tag.tag));

/** `auth-url` is `auth_url`. */
function underscored(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(underscored);
  if (!isMapping(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key.replaceAll('-', '_'), underscored(each)]));
}

function merge(under: Fields, over: Fields): Fields {
  const merged: Record<string, unknown> = { ...under };
  for (const [key, value] of Object.entries(over)) {
    const below = merged[key];
    merged[key] = isMapping(below) && isMapping(value) ? merge(below, value) : value;
  }
  return merged;
}

const isMapping = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function mapping(value: unknown, where: string): Fields {
  if (isMapping(value)) return value;
  throw new CloudError(`${where}: expected a mapping`);
}
