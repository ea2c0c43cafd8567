import { PreconditionError } from './errors.ts';

/** How far a node's clock may be off. */
export const maxClockSkewMs = 5 * 60_000;

/** Throws PreconditionError saying by how much, and which way, a clock is too far off. */
export function checkClock(theirsMs: number, oursMs: number): void {
  const skewMs = theirsMs - oursMs;
  if (Math.abs(skewMs) <= maxClockSkewMs) return;
  const way = skewMs > 0 ? 'ahead of' : 'behind';
  throw new PreconditionError(
    `This node's clock is ${span(Math.abs(skewMs))} ${way} the control plane's (${new Date(oursMs).toISOString()}). ` +
      'Set the clock (NTP), and try again: at most 5 minutes are allowed.',
  );
}

function span(ms: number): string {
  const units: [number, string][] = [
    [86_400_000, 'd'],
    [3_600_000, 'h'],
    [60_000, 'min'],
    [1_000, 's'],
  ];
  let rest = Math.round(ms / 1000) * 1000;
  const parts: string[] = [];
  for (const [size, unit] of units) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0 && parts.length < 2) parts.push(`${count} ${unit}`);
  }
  return parts.join(' ');
}
