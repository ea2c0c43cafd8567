import { InvalidArgumentError } from 'commander';

/** Reads a whole number of an option. `name` is how the message calls it. */
export function integer(name: string, least: number, most: number) {
  return (value: string): number => {
    const number = Number(value);
    if (!/^\d+$/.test(value) || number < least || number > most) {
      throw new InvalidArgumentError(`${name} must be a whole number from ${least} to ${most}.`);
    }
    return number;
  };
}

const units: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

/** Reads a duration of an option, such as `10s`, as milliseconds. */
export function duration(name: string, leastMs: number, mostMs: number) {
  return (value: string): number => {
    const match = /^(\d+)(ms|s|m|h)$/.exec(value);
    const ms = Number(match?.[1]) * (units[match?.[2] ?? ''] ?? Number.NaN);
    if (!(ms >= leastMs && ms <= mostMs)) {
      throw new InvalidArgumentError(
        `${name} must be a duration such as 10s, 5m or 24h, from ${leastMs} ms to ${mostMs} ms.`,
      );
    }
    return ms;
  };
}
