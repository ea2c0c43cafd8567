import { type DescMessage, isMessage, type MessageShape } from '@bufbuild/protobuf';
import { type Timestamp, timestampMs } from '@bufbuild/protobuf/wkt';
import { NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { type AnyObject, metadataOf } from '../objects.ts';
import { age, duration } from './age.ts';
import { deliveryOf, phaseOf, reasonOf, statusOf } from './state.ts';

/** A column of a kind's table: its title, and the cell for an object. */
export interface ObjectColumn {
  readonly title: string;
  /** Only with `-o wide`. */
  readonly wide?: boolean;
  readonly shrinks?: boolean;
  readonly right?: boolean;
  cell(object: AnyObject, nowMs: number): string;
}

export const none = '<none>';

export const name: ObjectColumn = { title: 'NAME', cell: (object) => metadataOf(object).name };
export const status: ObjectColumn = { title: 'STATUS', cell: (object) => phaseOf(object) || 'PENDING' };
export const reason: ObjectColumn = { title: 'REASON', shrinks: true, cell: (object) => reasonOf(object) };
export const ageColumn: ObjectColumn = {
  title: 'AGE',
  cell: (object, nowMs) => age(metadataOf(object).createTime, nowMs),
};
export const message: ObjectColumn = {
  title: 'MESSAGE',
  wide: true,
  shrinks: true,
  cell: (object) => statusOf(object)?.message ?? '',
};
export const node: ObjectColumn = {
  title: 'NODE',
  shrinks: true,
  cell: (object) => {
    const { status: own } = object;
    return (own && 'node' in own && own.node) || none;
  },
};
export const generation: ObjectColumn = {
  title: 'GENERATION',
  wide: true,
  cell: (object) => {
    const applied = deliveryOf(object)?.appliedGeneration ?? 0n;
    return `${applied}/${metadataOf(object).generation}`;
  },
};
export const confirmed: ObjectColumn = {
  title: 'CONFIRMED',
  wide: true,
  cell: (object, nowMs) =>
    ago(isMessage(object, NodeSchema) ? object.status?.confirmTime : deliveryOf(object)?.confirmTime, nowMs),
};

/** The cell of a column of one kind's table alone. */
export function cellOf<D extends DescMessage>(
  schema: D,
  cell: (object: MessageShape<D>, nowMs: number) => string,
): ObjectColumn['cell'] {
  return (object, nowMs) => (isMessage(object, schema) ? cell(object, nowMs) : '') || none;
}

function ago(time: Timestamp | undefined, nowMs: number): string {
  return time ? `${duration(nowMs - timestampMs(time))} ago` : 'never';
}
