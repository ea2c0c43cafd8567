import stringWidth from 'string-width';
import { escapeLine } from './escape.ts';

/** A column of a table. */
export interface Column {
  readonly title: string;
  /** Whether its cells may be cut to make the table fit the terminal. */
  readonly shrinks?: boolean;
  readonly right?: boolean;
  /** Gets the cell as it is (uncut), and the text to paint. */
  readonly paint?: (cell: string, text: string) => string;
}

const gap = '   ';
const smallest = 8;

/** Lines up rows as they come: the widths are those of the first batch, and grow when a later row needs more. */
export class Table {
  readonly #columns: readonly Column[];
  readonly #maxWidth: number;
  #widths: number[];
  #headerDue: boolean;

  /** `maxWidth`: columns of the terminal; unset where output is not one, and nothing is cut. */
  constructor(columns: readonly Column[], options: { readonly maxWidth?: number; readonly header?: boolean } = {}) {
    this.#columns = columns;
    this.#maxWidth = options.maxWidth && options.maxWidth > 0 ? options.maxWidth : Number.POSITIVE_INFINITY;
    this.#headerDue = options.header ?? true;
    this.#widths = this.#headerDue ? columns.map((column) => stringWidth(column.title)) : columns.map(() => 0);
  }

  /** The lines for these rows, with the header before the first ones. Cells are escaped; an empty one stays empty. */
  render(rows: readonly (readonly string[])[]): string {
    const cells = rows.map((row) => row.map(escapeLine));
    for (const row of cells) {
      for (const [index, cell] of row.entries()) {
        this.#widths[index] = Math.max(this.#widths[index] ?? 0, stringWidth(cell));
      }
    }
    const widths = this.#fit();
    const lines: string[] = [];
    if (this.#headerDue)
      lines.push(
        this.#line(
          this.#columns.map((column) => column.title),
          widths,
          false,
        ),
      );
    this.#headerDue = false;
    for (const row of cells) lines.push(this.#line(row, widths, true));
    return lines.map((line) => `${line}\n`).join('');
  }

  #fit(): number[] {
    const widths = [...this.#widths];
    const total = (): number => widths.reduce((sum, width) => sum + width, gap.length * (widths.length - 1));
    while (total() > this.#maxWidth) {
      let widest = -1;
      for (const [index, column] of this.#columns.entries()) {
        const width = widths[index] ?? 0;
        if (column.shrinks && width > Math.max(smallest, stringWidth(column.title)) && width > (widths[widest] ?? 0))
          widest = index;
      }
      if (widest < 0) break;
      widths[widest] = (widths[widest] ?? 0) - 1;
    }
    return widths;
  }

  #line(cells: readonly string[], widths: readonly number[], painted: boolean): string {
    let line = '';
    let used = 0;
    for (const [index, column] of this.#columns.entries()) {
      const isLast = index === this.#columns.length - 1;
      const cell = cells[index] ?? '';
      const before = index === 0 ? '' : gap;
      const room = Math.min(widths[index] ?? 0, this.#maxWidth - used - before.length);
      if (room <= 0 && this.#maxWidth !== Number.POSITIVE_INFINITY) break;
      const text = cut(cell, room);
      const padding = ' '.repeat(Math.max(0, room - stringWidth(text)));
      const shown = painted && column.paint ? column.paint(cell, text) : text;
      line += before + (column.right ? padding + shown : shown + (isLast ? '' : padding));
      used += before.length + room;
    }
    return line.trimEnd();
  }
}

/** Cuts text to so many columns of the terminal; what was cut ends in `…`. */
export function cut(text: string, width: number): string {
  if (stringWidth(text) <= width) return text;
  if (width <= 1) return width === 1 ? '…' : '';
  let kept = '';
  let used = 0;
  for (const { segment } of new Intl.Segmenter(undefined, { granularity: 'grapheme' }).segment(text)) {
    used += stringWidth(segment);
    if (used > width - 1) break;
    kept += segment;
  }
  return `${kept}…`;
}
