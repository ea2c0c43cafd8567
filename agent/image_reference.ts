/**
 * References of images as Docker and Kubernetes read them: `busybox` is `docker.io/library/busybox`, and the first part is a registry only where
 * it looks like one. Pure.
 */
export interface ImageReference {
  /** In small letters, with its port if one is given. */
  readonly registry: string;
  /** `library/busybox`. */
  readonly repository: string;
}

const hub = 'docker.io';
const host = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(:[0-9]{1,5})?$/;
const ipv6 = /^\[[0-9a-f:]+\](:[0-9]{1,5})?$/;
const part = /^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$/;
const tag = /^\w[\w.-]{0,127}$/;
const digest = /^[a-z][a-z0-9]*([-_+.][a-z][a-z0-9]*)*:[0-9a-fA-F]{32,}$/;

/** Undefined: it is no reference, or one that an engine may take for the id of an image that is on the node, whatever that is. */
export function parseImage(text: string): ImageReference | undefined {
  const [named = '', hash, ...more] = text.split('@');
  if (more.length > 0 || (hash !== undefined && !digest.test(hash))) return undefined;
  const colon = named.indexOf(':', named.lastIndexOf('/') + 1);
  const name = colon < 0 ? named : named.slice(0, colon);
  if (colon >= 0 && !tag.test(named.slice(colon + 1))) return undefined;
  // An engine looks for ids by their beginning, too.
  if (hash === undefined && /^[0-9a-f]+$/i.test(named)) return undefined;
  if (name === 'sha256' || name === 'sha512') return undefined;
  return normalised(name);
}

/**
 * What images may be in: a registry (`registry.example.com:5000`), a part of one (`registry.example.com/team`, `team`) or one repository
 * (`busybox`). Undefined: it is none of these.
 */
export function parseImagePrefix(text: string): ImageReference | undefined {
  const isFolder = text.endsWith('/');
  const name = isFolder ? text.slice(0, -1) : text;
  if (!name.includes('/')) {
    // `app:1` is a repository with a tag, which is no prefix; `registry:5000/` says what it is.
    if (isRegistry(name) && (isFolder || /\.|^localhost(:|$)/.test(name))) {
      const registry = registryOf(name);
      return registry === undefined ? undefined : { registry, repository: '' };
    }
    if (isFolder) return part.test(name) ? { registry: hub, repository: name } : undefined;
  }
  return normalised(name, true);
}

/** Whether an image is in what a prefix names. Parts count as wholes: `team` is no prefix of `teammate/app`. */
export function isWithin(image: ImageReference, prefix: ImageReference): boolean {
  if (image.registry !== prefix.registry) return false;
  return (
    prefix.repository === '' ||
    image.repository === prefix.repository ||
    image.repository.startsWith(`${prefix.repository}/`)
  );
}

export const showImage = ({ registry, repository }: ImageReference): string =>
  repository === '' ? registry : `${registry}/${repository}`;

/** @param isPrefix `docker.io/team` is then a part of the registry, and not the image `docker.io/library/team`. */
function normalised(name: string, isPrefix = false): ImageReference | undefined {
  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  const hasRegistry = slash >= 0 && (isRegistry(first) || first !== first.toLowerCase());
  const registry = hasRegistry ? registryOf(first) : hub;
  const rest = hasRegistry ? name.slice(slash + 1) : name;
  if (registry === undefined || !rest.split('/').every((one) => part.test(one))) return undefined;
  const isOfficial = registry === hub && !rest.includes('/') && !(isPrefix && hasRegistry);
  return { registry, repository: isOfficial ? `library/${rest}` : rest };
}

const isRegistry = (text: string): boolean => /[.:]/.test(text) || text === 'localhost';

function registryOf(text: string): string | undefined {
  const registry = text.toLowerCase();
  if (!host.test(registry) && !ipv6.test(registry)) return undefined;
  return registry === 'index.docker.io' ? hub : registry;
}
