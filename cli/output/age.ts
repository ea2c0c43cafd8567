import { type Timestamp, timestampMs } from '@bufbuild/protobuf/wkt';

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;

/** A length of time as kubectl writes ages, two figures at most: `45s`, `3m20s`, `5h`, `3d4h`, `2y40d`. Less than nothing is `0s`. */
export function duration(ms: number): string {
  if (!(ms >= second)) return '0s';
  if (ms < 2 * minute) return `${Math.floor(ms / second)}s`;
  if (ms < 10 * minute) return pair(ms, minute, 'm', second, 's');
  if (ms < 3 * hour) return `${Math.floor(ms / minute)}m`;
  if (ms < 8 * hour) return pair(ms, hour, 'h', minute, 'm');
  if (ms < 2 * day) return `${Math.floor(ms / hour)}h`;
  if (ms < 8 * day) return pair(ms, day, 'd', hour, 'h');
  if (ms < 730 * day) return `${Math.floor(ms / day)}d`;
  return pair(ms, 365 * day, 'y', day, 'd');
}

function pair(ms: number, large: number, largeUnit: string, small: number, smallUnit: string): string {
  const rest = Math.floor((ms % large) / small);
  return `${Math.floor(ms / large)}${largeUnit}${rest > 0 ? `${rest}${smallUnit}` : ''}`;
}

/** How long ago that was: `3m20s`; `<unknown>` for no time at all. */
export function age(time: Timestamp | undefined, nowMs: number): string {
  return time ? duration(nowMs - timestampMs(time)) : '<unknown>';
}

/** For people: `2026-11-22T11:46:05Z (3m20s ago)`, or `(in 5s)`. Empty for no time. */
export function moment(time: Timestamp | undefined, nowMs: number): string {
  if (!time) return '';
  const ms = timestampMs(time);
  const apart = ms > nowMs ? `in ${duration(ms - nowMs)}` : `${duration(nowMs - ms)} ago`;
  return `${isoTime(ms)} (${apart})`;
}

/** RFC 3339 in whole seconds; a time that no calendar has is shown as its milliseconds. */
export function isoTime(ms: number): string {
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? `${ms} ms` : date.toISOString().replace(/\.\d+Z$/, 'Z');
}
