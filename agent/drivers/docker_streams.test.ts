import { Readable } from 'node:stream';
import test from 'ava';
import fc from 'fast-check';
import { demultiplex } from './docker_streams.ts';
import type { OutputChunk } from './driver.ts';

type Line = readonly [number, string];

function framed(lines: readonly Line[]): Buffer {
  return Buffer.concat(
    lines.flatMap(([stream, text]) => {
      const header = Buffer.alloc(8);
      header[0] = stream;
      header.writeUInt32BE(Buffer.byteLength(text), 4);
      return [header, Buffer.from(text)];
    }),
  );
}

async function read(chunks: readonly Uint8Array[]): Promise<OutputChunk[]> {
  const output: OutputChunk[] = [];
  // As objects: each chunk comes as it is.
  for await (const chunk of demultiplex(Readable.from(chunks))) output.push(chunk);
  return output;
}

const textOf = (output: readonly OutputChunk[], stream: string) =>
  output.flatMap((chunk) => (chunk.stream === stream ? [Buffer.from(chunk.data).toString()] : [])).join('');

test('however it is cut, each stream has its bytes, in order', async (t) => {
  const line = fc.tuple(fc.constantFrom(1, 2), fc.string({ maxLength: 40 }));
  await fc.assert(
    fc.asyncProperty(
      fc.array(line, { maxLength: 20 }),
      fc.array(fc.nat(60), { maxLength: 60 }),
      async (lines, cuts) => {
        const whole = framed(lines);
        const chunks: Buffer[] = [];
        let from = 0;
        for (const size of cuts) {
          if (size > 0 && from < whole.length) chunks.push(whole.subarray(from, from + size));
          from += size;
        }
        if (from < whole.length) chunks.push(whole.subarray(from));
        const output = await read(chunks);
        for (const [number, name] of [
          [1, 'stdout'],
          [2, 'stderr'],
        ] as const) {
          const wanted = lines.flatMap(([stream, text]) => (stream === number ? [text] : [])).join('');
          t.is(textOf(output, name), Buffer.from(wanted).toString());
        }
      },
    ),
  );
});

test('lines that come together go on together, and none waits for the next', async (t) => {
  const lines = Array.from({ length: 1000 }, (_, i): Line => [1, `line ${i}\n`]);
  t.is((await read([framed(lines)])).length, 1);
  t.is((await read([framed([...lines, [2, 'oops\n'], ...lines])])).length, 3);
  const socket = new Readable({ read: () => undefined });
  const output = demultiplex(socket);
  socket.push(framed([[1, 'now\n']]));
  const { value } = await output.next();
  t.is(Buffer.from(value?.data ?? []).toString(), 'now\n');
  socket.push(null);
  t.true((await output.next()).done);
});

test('what breaks off, or is none, is an error', async (t) => {
  const whole = framed([[1, 'line']]);
  await t.throwsAsync(read([whole.subarray(0, 10)]), { message: /broke off/ });
  await t.throwsAsync(read([Buffer.from('HTTP/1.1 500 no')]), { message: /not in frames/ });
  await t.throwsAsync(read([framed([[3, 'the engine failed']])]), { message: 'the engine failed' });
});
