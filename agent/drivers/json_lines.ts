import type { Readable } from 'node:stream';

export interface JsonLinesOptions {
  /** A longer line ends the stream. Default 1 Mi, as no line of a container engine's is longer. */
  readonly maxLineChars?: number;
  /** Told of each whole line first. True: it is passed over, and not parsed. Default: none is. */
  readonly passOver?: (line: string) => boolean;
}

/** The objects in a stream of JSON, one a line. What is no JSON object is passed over. Throws as the stream does, or when a line has no end. */
export async function* jsonLines(
  stream: Readable,
  { maxLineChars = 1 << 20, passOver }: JsonLinesOptions = {},
): AsyncGenerator<object> {
  stream.setEncoding('utf8');
  let rest = '';
  for await (const chunk of stream as AsyncIterable<string>) {
    rest += chunk;
    let from = 0;
    for (let end = rest.indexOf('\n', from); end >= 0; end = rest.indexOf('\n', from)) {
      const text = rest.slice(from, end);
      from = end + 1;
      if (passOver?.(text)) continue;
      const line = parseObject(text);
      if (line) yield line;
    }
    rest = rest.slice(from);
    if (rest.length > maxLineChars) throw new Error('a line of the engine has no end');
  }
  const last = parseObject(rest);
  if (last) yield last;
}

function parseObject(text: string): object | undefined {
  if (!text.trim()) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}
