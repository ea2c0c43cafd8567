import { DriverError, type DriverErrorKind } from './driver.ts';

/**
 * What Docker's errors mean. The engine says most things in prose with a code of 500, so its words are matched here, and nowhere else:
 * past this file an error is a kind.
 */
interface Rule {
  readonly pattern: RegExp;
  readonly kind: DriverErrorKind;
}

const rules: readonly Rule[] = [
  // Of containerd and runc, about a task or its folder, which they name by the container's id.
  {
    pattern:
      /^id already in use|\b(task|container) "?[0-9a-f]{64}"?:? already exists|container with (given )?id (already )?exists|start shim: mkdir .* file exists/i,
    kind: 'leftover',
  },
  { pattern: /no space left on device|disk quota exceeded/i, kind: 'no-space' },
  {
    pattern:
      /port is already allocated|address already in use|bind: cannot assign|failed to bind|ports are not available/i,
    kind: 'port-taken',
  },
  {
    pattern: /container name .* is already in use|already in use by container|name .* is reserved/i,
    kind: 'name-taken',
  },
  {
    pattern: /pull access denied|unauthorized|authentication required|denied: |no basic auth credentials/i,
    kind: 'pull-denied',
  },
  {
    pattern: /no such image|manifest (for .* )?(unknown|not found)|not found: manifest|repository .* not found/i,
    kind: 'image-not-found',
  },
  {
    pattern:
      /i\/o timeout|no such host|connection refused|tls handshake|temporary failure|server misbehaving|network is unreachable|toomanyrequests|client\.timeout|proxyconnect|x509/i,
    kind: 'pull-failed',
  },
  {
    pattern:
      /executable file not found|no such file or directory|bind source path does not exist|invalid|bad parameter|unknown capability|unable to find user|not a directory|is not supported|minimum memory limit|can only|must be|conflicting options|malformed|duplicate mount|exec format error|range of cpus|not specified/i,
    kind: 'invalid',
  },
  { pattern: /operation not permitted|permission denied/i, kind: 'permission' },
  { pattern: /is not running|is paused|container .* is restarting/i, kind: 'not-running' },
];

/** Errors of the connection, as Node.js names them. */
const unavailableCodes: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ENOENT',
  'EPIPE',
  'ECONNABORTED',
  'ETIMEDOUT',
  'EAGAIN',
]);

const fieldOf = (value: unknown, field: string): unknown =>
  typeof value === 'object' && value !== null ? Reflect.get(value, field) : undefined;

/** What the engine itself said, without what the client put around it. */
function engineMessage(cause: unknown): string {
  const json = fieldOf(cause, 'json');
  const said = fieldOf(json, 'message');
  if (typeof said === 'string' && said) return said.trim();
  const message = cause instanceof Error ? cause.message : String(cause);
  return message.replace(/^\(HTTP code \d+\)[^-]*- /, '').trim();
}

/** For the words of a pull, which come as a part of the answer. */
export const classifyMessage = (message: string): DriverErrorKind | undefined =>
  rules.find((rule) => rule.pattern.test(message))?.kind;

/**
 * @param doing what was tried, as "start the container"
 * @param pulling a pull: what is not found is the image, and what is not reached is the registry
 */
export function toDriverError(cause: unknown, doing: string, pulling = false): DriverError {
  if (cause instanceof DriverError) return cause;
  const code = fieldOf(cause, 'code');
  const name = fieldOf(cause, 'name');
  if (name === 'TimeoutError' || fieldOf(fieldOf(cause, 'cause'), 'name') === 'TimeoutError') {
    return new DriverError('engine-unavailable', `cannot ${doing}: the Docker engine does not answer`, { cause });
  }
  if (name === 'AbortError' || code === 'ABORT_ERR') {
    return new DriverError('cancelled', `cannot ${doing}: called off`, { cause });
  }
  const status = fieldOf(cause, 'statusCode');
  const message = engineMessage(cause);
  if (typeof status !== 'number') {
    if (code === 'EACCES' || code === 'EPERM') {
      return new DriverError(
        'engine-unavailable',
        `cannot ${doing}: no right to use the Docker engine's socket (run as root, or in the group docker)`,
        { cause },
      );
    }
    if ((typeof code === 'string' && unavailableCodes.has(code)) || /socket hang up|aborted|premature/i.test(message)) {
      return new DriverError('engine-unavailable', `cannot ${doing}: the Docker engine is away (${message})`, {
        cause,
      });
    }
    return new DriverError('other', `cannot ${doing}: ${message}`, { cause });
  }
  const kind = classifyMessage(message);
  const said = `cannot ${doing}: ${message}`;
  if (pulling) {
    if (kind === 'no-space' || kind === 'pull-denied' || kind === 'pull-failed' || kind === 'image-not-found') {
      return new DriverError(kind, said, { cause });
    }
    return new DriverError(status === 404 ? 'image-not-found' : 'pull-failed', said, { cause });
  }
  if (status === 503) return new DriverError('engine-unavailable', said, { cause });
  if (status === 404 && (kind === undefined || /no such (container|exec)/i.test(message))) {
    return new DriverError('not-found', said, { cause });
  }
  // A refused connection is the registry's only in a pull; elsewhere it is prose about something else.
  if (kind !== undefined && kind !== 'pull-failed') return new DriverError(kind, said, { cause });
  return new DriverError(status === 400 ? 'invalid' : 'other', said, { cause });
}
