import { createTwoFilesPatch, FILE_HEADERS_ONLY } from 'diff';
import type { Palette } from './color.ts';

/** A unified diff of two texts, painted; empty when there is no difference. An empty text stands for what is not there. */
export function unifiedDiff(before: string, after: string, name: string, colour: Palette): string {
  if (before === after) return '';
  const patch = createTwoFilesPatch(`live/${name}`, `merged/${name}`, before, after, undefined, undefined, {
    context: 3,
    headerOptions: FILE_HEADERS_ONLY,
  });
  return patch
    .split('\n')
    .map((line, index) => paint(line, index, colour))
    .join('\n');
}

function paint(line: string, index: number, colour: Palette): string {
  if (index < 2) return colour.bold(line);
  if (line.startsWith('@@')) return colour.dim(line);
  if (line.startsWith('+')) return colour.good(line);
  return line.startsWith('-') ? colour.bad(line) : line;
}
