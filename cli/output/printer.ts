import { UsageError } from '../errors.ts';
import { type Io, type OutputStream, write } from '../io.ts';
import type { KindRow } from '../kinds.ts';
import { type AnyObject, kindOf, label, metadataOf } from '../objects.ts';
import { palette, phasePaint } from './color.ts';
import type { ObjectColumn } from './column.ts';
import { columnsFor } from './columns.ts';
import { escapeLine, escapeText } from './escape.ts';
import type { JsonPath } from './jsonpath.ts';
import { jsonLine, jsonText, listJson, objectJson } from './object_json.ts';
import { Table } from './table.ts';

/** What `-o` asks for. */
export type OutputFormat =
  | { readonly type: 'table'; readonly wide: boolean }
  | { readonly type: 'json' }
  | { readonly type: 'yaml' }
  | { readonly type: 'name' }
  | { readonly type: 'manifest' }
  | { readonly type: 'jsonpath'; readonly path: JsonPath };

/** The words that `-o` takes. */
export const outputWords = ['wide', 'json', 'yaml', 'name', 'manifest', 'jsonpath='] as const;

/** Parses the argument of `-o`. `manifest` is for objects alone. */
export async function parseOutput(
  text: string | undefined,
  options: { readonly objects?: boolean } = {},
): Promise<OutputFormat> {
  if (text === 'manifest' && options.objects) return { type: text };
  switch (text) {
    case undefined:
      return { type: 'table', wide: false };
    case 'wide':
      return { type: 'table', wide: true };
    case 'json':
    case 'yaml':
    case 'name':
      return { type: text };
    default: {
      const template = /^jsonpath=([\s\S]*)$/.exec(text)?.[1];
      if (template === undefined) {
        const known = outputWords.filter((word) => word !== 'manifest' || options.objects);
        throw new UsageError(`unknown output "${text}"; known are ${known.join(', ')}…`);
      }
      const { parseJsonPath } = await import('./jsonpath.ts');
      return { type: 'jsonpath', path: parseJsonPath(template) };
    }
  }
}

/** Prints objects in the format asked for. */
export class Printer {
  readonly #io: Io;
  readonly #format: OutputFormat;
  readonly #header: boolean;
  readonly #prefixed: boolean;
  readonly #namespaces: boolean;
  readonly #projects: boolean;
  readonly #tables = new Map<KindRow, { readonly table: Table; readonly columns: readonly ObjectColumn[] }>();
  #documents = 0;

  constructor(
    io: Io,
    options: {
      readonly format: OutputFormat;
      readonly header: boolean;
      readonly namespaces: boolean;
      readonly projects?: boolean;
      /** Names with their kinds, because several kinds were asked for. */
      readonly prefixed?: boolean;
    },
  ) {
    this.#io = io;
    this.#format = options.format;
    this.#header = options.header;
    this.#prefixed = options.prefixed ?? false;
    this.#namespaces = options.namespaces;
    this.#projects = options.projects ?? false;
  }

  /** One object that was asked for by its name. */
  async one(object: AnyObject): Promise<void> {
    if (this.#format.type === 'json') return this.#out(jsonText(objectJson(object)));
    if (this.#format.type === 'yaml') return this.#yaml(object);
    if (this.#format.type === 'jsonpath') return this.#out(this.#safe(this.#format.path.render(objectJson(object))));
    await this.many([object]);
  }

  /** Any number of objects. Tables come one for each kind, names with their kind where there are several. */
  async many(objects: readonly AnyObject[]): Promise<void> {
    switch (this.#format.type) {
      case 'json':
        return this.#out(jsonText(listJson(objects)));
      case 'yaml': {
        const { yamlText } = await import('./yaml.ts');
        return this.#out(yamlText(listJson(objects)));
      }
      case 'jsonpath':
        return this.#out(this.#safe(this.#format.path.render(listJson(objects))));
      case 'name':
        return this.#out(objects.map((object) => `${escapeLine(label(object))}\n`).join(''));
      case 'manifest':
        for (const object of objects) await this.#manifest(object);
        return;
      case 'table': {
        const kinds = [...new Set(objects.map(kindOf))];
        const parts = kinds.map((kind) =>
          this.#rows(
            kind,
            objects.filter((object) => kindOf(object) === kind),
            this.#prefixed || kinds.length > 1,
          ),
        );
        return this.#out(parts.join('\n'));
      }
    }
  }

  /** One event of a watch: JSON on one line, YAML as a document of its own, a table's row under its header. */
  async event(object: AnyObject, deleted: boolean): Promise<void> {
    switch (this.#format.type) {
      case 'json':
        return this.#out(jsonLine(objectJson(object)));
      case 'yaml':
        return this.#yaml(object);
      case 'jsonpath':
        return this.#out(this.#safe(`${this.#format.path.render(objectJson(object))}\n`));
      case 'name':
        return this.#out(`${escapeLine(label(object))}\n`);
      case 'manifest':
        return this.#manifest(object);
      case 'table':
        return this.#out(this.#rows(kindOf(object), [object], false, deleted));
    }
  }

  #rows(kind: KindRow, objects: readonly AnyObject[], prefixed: boolean, deleted = false): string {
    if (this.#format.type !== 'table') return '';
    const { table, columns } = this.#tableOf(kind, objects, this.#format.wide);
    const nowMs = this.#io.nowMs();
    return table.render(
      objects.map((object) =>
        columns.map((column) => {
          if (deleted && column.title === 'STATUS') return 'DELETED';
          if (prefixed && column.title === 'NAME') return label(object);
          return column.cell(object, nowMs);
        }),
      ),
    );
  }

  /** What is chosen for the first rows holds for those that come later. */
  #tableOf(kind: KindRow, objects: readonly AnyObject[], wide: boolean) {
    const known = this.#tables.get(kind);
    if (known) return known;
    const colour = palette(this.#io, this.#io.stdout);
    const columns = columnsFor(kind.name, objects, {
      wide,
      namespaces: this.#namespaces && kind.scope === 'namespace',
      projects: this.#projects,
    });
    const table = new Table(
      columns.map((column) => ({
        ...column,
        ...(column.title === 'STATUS' ? { paint: (cell: string, text: string) => phasePaint(colour, cell)(text) } : {}),
      })),
      { header: this.#header, ...(this.#io.stdout.isTTY ? { maxWidth: this.#io.stdout.columns } : {}) },
    );
    const made = { table, columns };
    this.#tables.set(kind, made);
    return made;
  }

  async #yaml(object: AnyObject): Promise<void> {
    const { yamlText } = await import('./yaml.ts');
    await this.#document(yamlText(objectJson(object)));
  }

  async #manifest(object: AnyObject): Promise<void> {
    const { v1Manifest } = await import('../v1_manifest.ts');
    await this.#document(v1Manifest(object));
  }

  #document(text: string): Promise<void> {
    const separator = this.#documents++ > 0 ? '---\n' : '';
    return this.#out(separator + text);
  }

  #safe(text: string): string {
    return templateText(this.#io.stdout, text);
  }

  #out(text: string): Promise<void> {
    return write(this.#io.stdout, text);
  }
}

/** A template's output goes to programs as it is, to a terminal without what steers it. */
function templateText(stream: OutputStream, text: string): string {
  return stream.isTTY ? escapeText(text) : text;
}

/** Sorts by `name`, `age` (oldest first), or a JSONPath. Those without a value come last. */
export async function sortObjects(objects: readonly AnyObject[], by: string): Promise<AnyObject[]> {
  const { compareValues, parseJsonPath } = await import('./jsonpath.ts');
  if (by === 'name') return [...objects].sort((a, b) => compareValues(metadataOf(a).name, metadataOf(b).name));
  const known: Readonly<Record<string, string>> = { age: '.metadata.createTime', create_time: '.metadata.createTime' };
  const path = parseJsonPath(known[by] ?? by);
  const keyed = objects.map((object) => ({ object, key: path.values(objectJson(object))[0] }));
  keyed.sort((a, b) => {
    if (a.key === undefined || b.key === undefined) return Number(a.key === undefined) - Number(b.key === undefined);
    return compareValues(a.key, b.key);
  });
  return keyed.map(({ object }) => object);
}

/** Prints JSON in the formats that take any: `json`, `yaml`, `jsonpath`. False for the others, and nothing is printed. */
export async function printValue(
  stream: OutputStream,
  format: OutputFormat,
  value: Parameters<typeof jsonText>[0],
): Promise<boolean> {
  switch (format.type) {
    case 'json':
      await write(stream, jsonText(value));
      return true;
    case 'yaml': {
      const { yamlText } = await import('./yaml.ts');
      await write(stream, yamlText(value));
      return true;
    }
    case 'jsonpath':
      await write(stream, templateText(stream, format.path.render(value)));
      return true;
    default:
      return false;
  }
}
