import { InvalidArgumentError } from 'commander';

const durationUnitsMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** `30s`, `1h30m`, `1.5h`, `2d`, `500ms`; a bare number is seconds. In milliseconds. */
export function parseDuration(text: string): number {
  if (/^\d+(\.\d+)?$/.test(text)) return Math.round(Number(text) * 1000);
  if (!/^(\d+(\.\d+)?(ms|s|m|h|d))+$/.test(text)) {
    throw new InvalidArgumentError('Expected a length of time, as 30s, 10m or 1h30m.');
  }
  let ms = 0;
  for (const [, amount = '', , unit = ''] of text.matchAll(/(\d+(\.\d+)?)(ms|s|m|h|d)/g)) {
    ms += Number(amount) * (durationUnitsMs[unit] ?? 0);
  }
  return Math.round(ms);
}

/** As `parseDuration`, and more than nothing. */
export function parsePositiveDuration(text: string): number {
  const ms = parseDuration(text);
  if (ms <= 0) throw new InvalidArgumentError('Expected more than nothing.');
  return ms;
}

/** A whole number that is not negative. */
export function parseCount(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new InvalidArgumentError('Expected a whole number.');
  return value;
}

/** A whole number, at least 1. */
export function parsePositiveCount(text: string): number {
  const value = parseCount(text);
  if (value < 1) throw new InvalidArgumentError('Expected a whole number, 1 or more.');
  return value;
}

/** `true` or `false`. */
export function parseBoolean(text: string): boolean {
  if (text === 'true') return true;
  if (text === 'false') return false;
  throw new InvalidArgumentError('Expected true or false.');
}

/** RFC 3339, as 2026-11-22T11:46:05Z. In Unix milliseconds. */
export function parseTime(text: string): number {
  const ms = Date.parse(text);
  if (!/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$/i.test(text) || Number.isNaN(ms)) {
    throw new InvalidArgumentError('Expected a time in RFC 3339, as 2026-11-22T11:46:05Z.');
  }
  return ms;
}

/** `0.5` and `500m` are half a core. In thousandths of a core. */
export function parseCpu(text: string): bigint {
  const match = /^(\d+(?:\.\d+)?)(m?)$/.exec(text);
  const millis = Number(match?.[1]) * (match?.[2] ? 1 : 1000);
  if (!match || !(millis >= 1)) throw new InvalidArgumentError('Expected cores, as 0.5 or 500m.');
  return BigInt(Math.round(millis));
}

const byteUnits: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  t: 1e12,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
  ti: 2 ** 40,
};

/** `64Mi`, `1.5Gi`, `500M`, `1073741824`. In bytes. */
export function parseBytes(text: string): bigint {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?$/i.exec(text);
  const unit = byteUnits[match?.[2]?.toLowerCase() ?? ''];
  if (!match || unit === undefined)
    throw new InvalidArgumentError('Expected an amount of memory, as 64Mi, 1Gi or 500M.');
  return BigInt(Math.round(Number(match[1]) * unit));
}

/** Gathers an option that may be given several times. */
export function collect<T>(
  parse: (text: string) => T,
): (text: string, before: readonly T[] | undefined) => readonly T[] {
  return (text, before) => [...(before ?? []), parse(text)];
}

/** `KEY=VALUE`. */
export function parsePair(text: string): readonly [string, string] {
  const at = text.indexOf('=');
  if (at <= 0) throw new InvalidArgumentError(`Expected KEY=VALUE, and not "${text}".`);
  return [text.slice(0, at), text.slice(at + 1)];
}

/** A published port, before it becomes a message. */
export interface PortArgument {
  readonly hostIp: string;
  readonly hostPort: number;
  readonly containerPort: number;
  readonly protocol: 'TCP' | 'UDP' | 'SCTP';
}

/** `[[IP:]HOST:]CONTAINER[/tcp|udp|sctp]`, as docker takes it; without HOST the engine chooses one. */
export function parsePort(text: string): PortArgument {
  const match = /^(?:(?:(\[[0-9a-f:.]+\]|[0-9.]+):)?(\d*):)?(\d+)(?:\/(tcp|udp|sctp))?$/i.exec(text);
  if (!match) throw new InvalidArgumentError('Expected [[IP:]HOST:]CONTAINER[/tcp|udp|sctp], as 8080:80.');
  const [, ip = '', host = '', container = '', protocol = 'tcp'] = match;
  const ports = [Number(host || '0'), Number(container)] as const;
  if (ports[0] > 65535 || ports[1] > 65535 || ports[1] === 0)
    throw new InvalidArgumentError('A port is a number from 1 to 65535.');
  const upper = protocol.toUpperCase();
  return {
    hostIp: ip.replace(/^\[|\]$/g, ''),
    hostPort: ports[0],
    containerPort: ports[1],
    protocol: upper === 'UDP' || upper === 'SCTP' ? upper : 'TCP',
  };
}

/** A mount, before it becomes a message. */
export interface MountArgument {
  readonly type: 'BIND' | 'VOLUME';
  readonly source: string;
  readonly target: string;
  readonly readOnly: boolean;
}

/** `SRC:DST[:ro|rw]`: SRC is an absolute path on the node, or the name of a volume. */
export function parseMount(text: string): MountArgument {
  const [source = '', target = '', mode = 'rw', ...more] = text.split(':');
  if (!source || !target.startsWith('/') || more.length > 0 || (mode !== 'ro' && mode !== 'rw')) {
    throw new InvalidArgumentError('Expected SRC:DST[:ro], as /srv/data:/data:ro or a-volume:/data.');
  }
  if (!source.startsWith('/') && !/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(source)) {
    throw new InvalidArgumentError('SRC is an absolute path on the node, or the name of a volume.');
  }
  return { type: source.startsWith('/') ? 'BIND' : 'VOLUME', source, target, readOnly: mode === 'ro' };
}
