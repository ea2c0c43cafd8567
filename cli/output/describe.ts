import { type DescEnum, type DescField, type DescMessage, isMessage, type Message, toJson } from '@bufbuild/protobuf';
import { type ReflectMessage, reflect } from '@bufbuild/protobuf/reflect';
import { DurationSchema, StructSchema, type Timestamp, TimestampSchema } from '@bufbuild/protobuf/wkt';
import { NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { type AnyObject, kindOf, metadataOf, schemaOf } from '../objects.ts';
import { duration, moment } from './age.ts';
import { clusterSections } from './describe_cluster.ts';
import { enumName } from './enum_name.ts';
import { escapeLine, escapeText } from './escape.ts';
import { Table } from './table.ts';
import { yamlText } from './yaml.ts';

const indentStep = '  ';

/** Everything about an object, for people: metadata first, then what is asked for, then what is so. Empty fields are left out. */
export function describeObject(object: AnyObject, nowMs: number): string {
  const metadata = metadataOf(object);
  const head: [string, string][] = [
    ['Name', metadata.name],
    ['Kind', kindOf(object).name],
    ['Bay', metadata.bay],
    ['Namespace', metadata.namespace],
    ['Project', metadata.project],
    ['Uid', metadata.uid],
    ['Labels', pairs(metadata.labels)],
    ['Annotations', pairs(metadata.annotations)],
    ['Created', moment(metadata.createTime, nowMs)],
    ['Changed', moment(metadata.updateTime, nowMs)],
    ['Deleting since', moment(metadata.deleteTime, nowMs)],
    ['Generation', String(metadata.generation)],
    ['Revision', String(metadata.revision)],
  ];
  const lines = aligned(
    head.filter(([, value]) => value !== ''),
    '',
  );
  for (const section of ['spec', 'status'] as const) {
    const own = reflect(schemaOf(kindOf(object).name), object);
    const field = own.fields.find((candidate) => candidate.localName === section);
    if (field?.fieldKind !== 'message' || !own.isSet(field)) continue;
    const value = own.get(field);
    const body = messageLines(value, indentStep, nowMs);
    if (body.length > 0) lines.push(section === 'spec' ? 'Asked for:' : 'As it is:', ...body);
  }
  if (isMessage(object, NodeSchema) && (object.status?.conditions.length ?? 0) > 0)
    lines.push('Conditions:', ...conditions(object, nowMs));
  for (const section of clusterSections(object, nowMs)) {
    if (section.lines.length === 0) continue;
    lines.push(`${section.title}:`, ...section.lines.map((line) => indentStep + escapeLine(line)));
  }
  return lines.map((line) => `${line}\n`).join('');
}

function conditions(
  node: Message & {
    status?: {
      conditions: readonly {
        type: string;
        status: number;
        reason: string;
        message: string;
        lastTransitionTime?: Timestamp;
      }[];
    };
  },
  nowMs: number,
): string[] {
  const table = new Table(['TYPE', 'STATUS', 'REASON', 'SINCE', 'MESSAGE'].map((title) => ({ title })));
  const rows = (node.status?.conditions ?? []).map((condition) => [
    condition.type,
    ['', 'True', 'False', 'Unknown'][condition.status] ?? String(condition.status),
    condition.reason,
    moment(condition.lastTransitionTime, nowMs),
    condition.message,
  ]);
  return table
    .render(rows)
    .trimEnd()
    .split('\n')
    .map((line) => indentStep + line);
}

function messageLines(message: ReflectMessage, indent: string, nowMs: number): string[] {
  const lines: string[] = [];
  let scalars: [string, string][] = [];
  const flush = (): void => {
    lines.push(...aligned(scalars, indent));
    scalars = [];
  };
  for (const field of message.fields) {
    if (!message.isSet(field) || hasSectionOfItsOwn(message.desc, field)) continue;
    const title = titleOf(field);
    const nested = nestedLines(message, field, indent + indentStep, nowMs);
    if (typeof nested === 'string') scalars.push([title, nested]);
    else if (nested.length > 0) {
      flush();
      lines.push(`${indent}${title}:`, ...nested);
    }
  }
  flush();
  return lines;
}

/** What is shown as tables, below. */
function hasSectionOfItsOwn(desc: DescMessage, field: DescField): boolean {
  if (desc.typeName === 'baykeeper.v1.NodeStatus') return field.name === 'conditions';
  return /^baykeeper\.v1\.(Pod|Service|ReplicationController)Status$/.test(desc.typeName)
    ? ['manifest', 'events'].includes(field.name)
    : false;
}

/** A field on one line, or the lines under its title. */
function nestedLines(message: ReflectMessage, field: DescField, indent: string, nowMs: number): string | string[] {
  switch (field.fieldKind) {
    case 'scalar':
      return scalarText(field, message.get(field));
    case 'enum':
      return enumName(field.enum, message.get(field));
    case 'message': {
      const value = message.get(field);
      if (value.desc.typeName === StructSchema.typeName) return structLines(value, indent);
      return specialText(value, nowMs) ?? messageLines(value, indent, nowMs);
    }
    case 'list': {
      const items = [...message.get(field)];
      if (field.listKind !== 'message') return items.map((item) => quoteWord(listText(field, item))).join(' ');
      return items.flatMap((item) => {
        const value = item as ReflectMessage;
        const [first, ...rest] = messageLines(value, `${indent}${indentStep}`, nowMs);
        return first === undefined ? [] : [`${indent}- ${first.trimStart()}`, ...rest];
      });
    }
    case 'map':
      return [...message.get(field)].map(
        ([key, value]) => `${indent}${escapeLine(String(key))}: ${escapeLine(String(value))}`,
      );
  }
}

function listText(field: DescField & { fieldKind: 'list' }, item: unknown): string {
  return field.listKind === 'enum' && typeof item === 'number' ? enumName(field.enum as DescEnum, item) : String(item);
}

function specialText(value: ReflectMessage, nowMs: number): string | undefined {
  const { message } = value;
  if (isMessage(message, TimestampSchema)) return moment(message, nowMs);
  if (isMessage(message, DurationSchema)) {
    const ms = Number(message.seconds) * 1000 + message.nanos / 1e6;
    return ms < 1000 ? `${ms}ms` : duration(ms);
  }
  return undefined;
}

/** A manifest reads as its author wrote it. */
function structLines(value: ReflectMessage, indent: string): string[] {
  const json = toJson(value.desc, value.message);
  const isEmpty = typeof json === 'object' && json !== null && Object.keys(json).length === 0;
  return isEmpty
    ? []
    : yamlText(json)
        .trimEnd()
        .split('\n')
        .map((line) => (indent + line).trimEnd());
}

function scalarText(field: DescField, value: unknown): string {
  if (field.name.endsWith('_bytes') && (typeof value === 'bigint' || typeof value === 'number'))
    return bytesText(Number(value));
  if (typeof value === 'number' && !Number.isInteger(value)) return value.toFixed(2);
  return value instanceof Uint8Array ? `${value.length} bytes` : String(value);
}

/** `64Mi`, `1.5Gi`. */
export function bytesText(bytes: number): string {
  const units = ['', 'Ki', 'Mi', 'Gi', 'Ti'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${value >= 100 || Number.isInteger(value) ? Math.round(value) : value.toFixed(1)}${units[unit]}`;
}

function titleOf(field: DescField): string {
  const words = field.name.replace(/_bytes$/, '').replace(/_/g, ' ');
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function pairs(map: Readonly<Record<string, string>>): string {
  return Object.entries(map)
    .map(([key, value]) => `${key}=${value}`)
    .join('\n');
}

function quoteWord(word: string): string {
  return /^[A-Za-z0-9_./:=@%+,-]+$/.test(word) ? word : JSON.stringify(word);
}

/** Title and value in two columns; further lines of a value stand under the first. */
function aligned(rows: readonly (readonly [string, string])[], indent: string): string[] {
  const width = Math.max(0, ...rows.map(([title]) => title.length)) + 2;
  return rows.flatMap(([title, value]) => {
    const [first = '', ...rest] = escapeText(value).split('\n');
    return [
      `${indent}${`${title}:`.padEnd(width)} ${first}`,
      ...rest.map((line) => `${indent}${' '.repeat(width)} ${line}`),
    ].map((line) => line.trimEnd());
  });
}
