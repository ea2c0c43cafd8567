import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';

/** Where output goes: a stream that may be a terminal. */
export type OutputStream = Writable & { readonly isTTY?: boolean; readonly columns?: number; readonly rows?: number };
/** Where input comes from: a stream that may be a terminal. */
export type InputStream = Readable & { readonly isTTY?: boolean; setRawMode?(raw: boolean): unknown };

/** Everything of the world outside that a command touches. */
export interface Io {
  readonly stdin: InputStream;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The user's home folder: `~`. */
  readonly home: string;
  /** Unix milliseconds. */
  nowMs(): number;
  /** Aborted when the program is told to end. */
  readonly signal: AbortSignal;
  /** Calls `undo` when the program ends, however it ends. Returns what takes it back. */
  atExit(undo: () => void): () => void;
  /** From here on output may come far apart: the program ends when nobody reads it any more, where that can be told. */
  endWithReader(): void;
}

/** Writes, and waits while the reader is slow, so that memory stays bounded. */
export async function write(stream: OutputStream, chunk: string | Uint8Array): Promise<void> {
  if (chunk.length === 0 || stream.write(chunk) || stream.destroyed) return;
  const settled = new AbortController();
  try {
    await Promise.race([
      once(stream, 'drain', { signal: settled.signal }),
      once(stream, 'close', { signal: settled.signal }),
    ]);
  } finally {
    settled.abort();
  }
}

/** Reads a stream to its end, and throws RangeError when it has more than `maxBytes`. */
export async function readAll(stream: InputStream, maxBytes: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stream) {
    const bytes: Uint8Array = typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
    size += bytes.length;
    if (size > maxBytes) throw new RangeError(`more than ${maxBytes} bytes`);
    chunks.push(bytes);
  }
  return Buffer.concat(chunks);
}
