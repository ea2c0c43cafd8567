import type { CelInput } from '@bufbuild/cel';
import {
  type DescField,
  type DescMessage,
  isFieldSet,
  type JsonValue,
  type Message,
  ScalarType,
} from '@bufbuild/protobuf';
import type { FilterCost } from './filter_cost.ts';
import { kinds } from './kinds.ts';
import { shortEnumName } from './present.ts';

/*
 * Objects as CEL sees them. A filter looks at a few fields of thousands of objects, so nothing is converted before it is looked at; and what is looked
 * at counts.
 */

/** A map whose values are made when they are asked for. */
abstract class LazyMap extends Map<string, CelInput> {
  protected abstract read(key: string): CelInput | undefined;
  protected abstract names(): string[];

  override get(key: string): CelInput | undefined {
    return typeof key === 'string' ? this.read(key) : undefined;
  }
  override has(key: string): boolean {
    return this.get(key) !== undefined;
  }
  override get size(): number {
    return this.names().length;
  }
  override keys(): MapIterator<string> {
    return this.names().values();
  }
  override *entries(): MapIterator<[string, CelInput]> {
    for (const name of this.names()) {
      const value = this.get(name);
      if (value !== undefined) yield [name, value];
    }
  }
  override *values(): MapIterator<CelInput> {
    for (const [, value] of this.entries()) yield value;
  }
  override [Symbol.iterator](): MapIterator<[string, CelInput]> {
    return this.entries();
  }
  override forEach(callback: (value: CelInput, key: string, map: Map<string, CelInput>) => void): void {
    for (const [key, value] of this.entries()) callback(value, key, this);
  }
}

type Reader = (message: Message, cost: FilterCost) => CelInput | undefined;

/** How to read each field of a message, by its name in the proto file and by its name in JSON. */
interface Readers {
  readonly byName: ReadonlyMap<string, Reader>;
  readonly names: string[];
}

/** One for each message type there is: they are few, and known beforehand. */
const readers = new WeakMap<DescMessage, Readers>();

/** A message. A field that is not set is not there; one that cannot be unset has its default. */
export class MessageMap extends LazyMap {
  readonly #message: Message;
  readonly #cost: FilterCost;
  readonly #readers: Readers;

  constructor(message: Message, cost: FilterCost, desc: DescMessage = descOf(message)) {
    super();
    this.#message = message;
    this.#cost = cost;
    this.#readers = readersOf(desc);
  }

  protected override read(key: string): CelInput | undefined {
    return this.#readers.byName.get(key)?.(this.#message, this.#cost);
  }

  protected override names(): string[] {
    return this.#readers.names.filter((name) => this.read(name) !== undefined);
  }
}

class JsonMap extends LazyMap {
  readonly #record: { readonly [key: string]: JsonValue };
  readonly #cost: FilterCost;
  constructor(record: { readonly [key: string]: JsonValue }, cost: FilterCost) {
    super();
    this.#record = record;
    this.#cost = cost;
  }
  protected override read(key: string): CelInput | undefined {
    const value = Object.hasOwn(this.#record, key) ? this.#record[key] : undefined;
    return value === undefined ? undefined : jsonValue(value, this.#cost);
  }
  protected override names(): string[] {
    const names = Object.keys(this.#record);
    this.#cost.elements(names.length);
    return names;
  }
}

/** A map of strings, such as labels. */
export const recordMap = (record: { readonly [key: string]: string }, cost: FilterCost): Map<string, CelInput> =>
  new JsonMap(record, cost);

function jsonValue(value: JsonValue, cost: FilterCost): CelInput {
  if (Array.isArray(value)) {
    cost.elements(value.length);
    return value.map((element) => jsonValue(element, cost));
  }
  if (typeof value === 'object' && value !== null) return new JsonMap(value, cost);
  return scalarValue(value, cost);
}

function scalarValue<T extends CelInput>(value: T, cost: FilterCost): T {
  cost.text(typeof value === 'string' || value instanceof Uint8Array ? value.length : 0);
  return value;
}

const rootDescs: ReadonlyMap<string, DescMessage> = new Map(
  Object.values(kinds).flatMap(({ schema }) =>
    ['metadata', 'spec', 'status'].flatMap((name) => {
      const field = schema.field[name];
      return field?.fieldKind === 'message' ? [[field.message.typeName, field.message] as const] : [];
    }),
  ),
);

function descOf(message: Message): DescMessage {
  const desc = rootDescs.get(message.$typeName);
  if (!desc) throw new Error(`${message.$typeName} is not a part of an object`);
  return desc;
}

function readersOf(desc: DescMessage): Readers {
  const known = readers.get(desc);
  if (known) return known;
  const byName = new Map<string, Reader>();
  for (const field of desc.fields) {
    const read = readerOf(field);
    byName.set(field.jsonName, read);
    byName.set(field.name, read);
  }
  const made = { byName, names: desc.fields.map((field) => field.name) };
  readers.set(desc, made);
  return made;
}

function readerOf(field: DescField): Reader {
  const convert = converterOf(field);
  const { localName } = field;
  const hasDefault = field.fieldKind === 'list' || field.fieldKind === 'map' || !canBeUnset(field);
  return (message, cost) => {
    if (!hasDefault && !isFieldSet(message, field)) return undefined;
    return convert((message as unknown as Record<string, unknown>)[localName], cost);
  };
}

/** Messages, members of a oneof, and what is marked optional. */
const canBeUnset = (field: DescField): boolean =>
  field.fieldKind === 'message' || field.oneof !== undefined || field.proto.proto3Optional;

/** What is in a field is as its descriptor says: the casts below rest on that. */
function converterOf(field: DescField): (value: unknown, cost: FilterCost) => CelInput {
  switch (field.fieldKind) {
    case 'scalar':
      return scalar(field.scalar);
    case 'enum': {
      const names = new Map(field.enum.values.map((value) => [value.number, shortEnumName(field.enum, value.number)]));
      return (value) => names.get(value as number) ?? String(value);
    }
    case 'message':
      return messageValue(field.message);
    case 'list': {
      const element =
        field.listKind === 'message'
          ? messageValue(field.message)
          : field.listKind === 'scalar'
            ? scalar(field.scalar)
            : (value: unknown) => shortEnumName(field.enum, value as number);
      return (value, cost) => {
        const elements = value as unknown[];
        cost.elements(elements.length);
        return elements.map((each) => element(each, cost));
      };
    }
    case 'map':
      // All maps of the contract are from strings to strings.
      return (value, cost) => new JsonMap(value as { [key: string]: string }, cost);
  }
}

function scalar(type: ScalarType): (value: unknown, cost: FilterCost) => CelInput {
  switch (type) {
    case ScalarType.INT32:
    case ScalarType.UINT32:
    case ScalarType.SINT32:
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
      // A number would be a double to CEL.
      return (value) => BigInt(value as number);
    default:
      return (value, cost) => scalarValue(value as string | bigint | boolean | number | Uint8Array, cost);
  }
}

function messageValue(desc: DescMessage): (value: unknown, cost: FilterCost) => CelInput {
  if (desc.typeName === 'google.protobuf.Struct') {
    return (value, cost) => new JsonMap(value as { [key: string]: JsonValue }, cost);
  }
  if (desc.typeName.startsWith('google.protobuf.')) return (value) => value as Message;
  return (value, cost) => new MessageMap(value as Message, cost, desc);
}
