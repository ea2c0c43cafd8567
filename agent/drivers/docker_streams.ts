import type { Readable } from 'node:stream';
import type { OutputChunk } from './driver.ts';

/**
 * The engine's output as it comes through a socket. The next bytes are read when the consumer asks for them: a slow consumer slows down the
 * process that writes, and a frame is passed on in parts as they come, so that its length costs nothing.
 */

const headerBytes = 8;

/** Of a terminal: one stream, as it is. */
export async function* raw(socket: Readable): AsyncGenerator<OutputChunk> {
  for await (const data of socket as AsyncIterable<Uint8Array>) yield { stream: 'stdout', data };
}

/**
 * Of pipes: frames with a header of eight bytes, the first of which says which stream (1 stdout, 2 stderr, 3 an error of the engine) and the last four how long.
 * A log has a frame for each line: those of one stream that came together are passed on together, as each piece costs a message on the bus.
 * Throws when what comes is no such thing, or breaks off inside a frame.
 */
export async function* demultiplex(socket: Readable): AsyncGenerator<OutputChunk> {
  let header = new Uint8Array(0);
  let stream = 1;
  let left = 0;
  let problem = '';
  let run: OutputChunk['stream'] = 'stdout';
  let pieces: Uint8Array[] = [];
  const take = (): OutputChunk => {
    const [only, ...others] = pieces;
    const data = only && others.length === 0 ? only : Buffer.concat(pieces);
    pieces = [];
    return { stream: run, data };
  };
  for await (const chunk of socket as AsyncIterable<Uint8Array>) {
    let rest = chunk;
    while (rest.byteLength > 0) {
      if (left === 0) {
        const wanted = headerBytes - header.byteLength;
        header = Buffer.concat([header, rest.subarray(0, wanted)]);
        rest = rest.subarray(wanted);
        if (header.byteLength < headerBytes) break;
        stream = header[0] ?? 0;
        if (stream > 3) throw new Error("the engine's output is not in frames");
        left = new DataView(header.buffer, header.byteOffset, headerBytes).getUint32(4);
        header = new Uint8Array(0);
        continue;
      }
      const data = rest.subarray(0, left);
      rest = rest.subarray(data.byteLength);
      left -= data.byteLength;
      if (stream === 3) {
        if (problem.length < 4096) problem += Buffer.from(data).toString('utf8');
        continue;
      }
      const source = stream === 2 ? 'stderr' : 'stdout';
      if (source !== run && pieces.length > 0) yield take();
      run = source;
      pieces.push(data);
    }
    // Nothing is held back to wait for more.
    if (pieces.length > 0) yield take();
  }
  if (problem) throw new Error(problem.trim());
  if (left > 0 || header.byteLength > 0) throw new Error("the engine's output broke off");
}
