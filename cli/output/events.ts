import { timestampMs } from '@bufbuild/protobuf/wkt';
import type { ClusterEvent } from '../../proto/gen/baykeeper/v1/cluster_pb.js';
import { duration } from './age.ts';
import type { Palette } from './color.ts';
import { Table } from './table.ts';

/** The table of a cluster's Events, as `kubectl describe` has it, oldest first. */
export function eventTable(
  events: readonly ClusterEvent[],
  nowMs: number,
  options: { readonly maxWidth?: number; readonly colour?: Palette } = {},
): string {
  const { colour, maxWidth } = options;
  const paint = (cell: string, text: string): string => (cell === 'Warning' && colour ? colour.bad(text) : text);
  const table = new Table(
    [
      { title: 'TYPE', paint },
      { title: 'REASON' },
      { title: 'AGE' },
      { title: 'FROM', shrinks: true },
      { title: 'MESSAGE', shrinks: true },
    ],
    maxWidth === undefined ? {} : { maxWidth },
  );
  return table.render(
    events.map((event) => [event.type, event.reason, ageText(event, nowMs), event.source, event.message.trim()]),
  );
}

/** `5m`; of one that came several times `5m (x12 over 1h)`. */
function ageText({ firstTime, lastTime, count }: ClusterEvent, nowMs: number): string {
  const last = lastTime ?? firstTime;
  if (!last) return '<unknown>';
  const age = duration(nowMs - timestampMs(last));
  if (count <= 1 || !firstTime) return age;
  return `${age} (x${count} over ${duration(nowMs - timestampMs(firstTime))})`;
}
