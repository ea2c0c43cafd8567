import fc from 'fast-check';

/** One change of some bytes. Positions are fractions of the length, so that a change means something for samples of any length. */
interface Change {
  readonly how: 'flip' | 'set' | 'drop' | 'insert' | 'double' | 'cut' | 'splice';
  /** From 0 up to, and without, 1. */
  readonly at: number;
  readonly length: number;
  readonly bytes: Uint8Array;
}

/** What parsers stumble over: ends of number ranges, long lengths, signs of the formats that are read here. */
const troubles = [
  ...[0, 1, 0x7f, 0x80, 0xff].map((byte) => Uint8Array.of(byte)),
  Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0x0f),
  Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f),
  Uint8Array.of(0xc0, 0xaf),
  Uint8Array.of(0xed, 0xa0, 0x80),
  ...[
    '{',
    '}',
    '[',
    ']',
    '"',
    "'",
    ':',
    ',',
    '-',
    '---\n',
    '\n',
    '\r\n',
    '\t',
    '&a ',
    '*a',
    '<<: ',
    '!!binary ',
    '|\n',
    '#',
  ],
  ...[
    'null',
    'true',
    '~',
    '1e999',
    '-0',
    '9007199254740993',
    '0x7fffffffffffffff',
    '__proto__',
    'constructor',
    '../',
    '%00',
  ],
].map((trouble) => (typeof trouble === 'string' ? new TextEncoder().encode(trouble) : trouble));

const change: fc.Arbitrary<Change> = fc.record({
  how: fc.constantFrom('flip', 'set', 'drop', 'insert', 'double', 'cut', 'splice'),
  at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
  length: fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 1, max: 16 }) }, fc.integer({ min: 1, max: 4096 })),
  bytes: fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom(...troubles) },
    fc.uint8Array({ minLength: 1, maxLength: 16 }),
  ),
});

/** One of the samples, changed in a few places; sometimes no sample at all. */
export function mutated(samples: readonly Uint8Array[]): fc.Arbitrary<Uint8Array> {
  const chosen = fc.constantFrom(...samples);
  return fc.oneof(
    {
      weight: 12,
      arbitrary: fc
        .tuple(chosen, chosen, fc.array(change, { minLength: 1, maxLength: 6 }))
        .map(([sample, other, changes]) => changes.reduce((bytes, one) => apply(bytes, other, one), sample)),
    },
    fc.uint8Array({ maxLength: 200 }),
  );
}

function apply(bytes: Uint8Array, other: Uint8Array, { how, at, length, bytes: given }: Change): Uint8Array {
  const start = Math.floor(at * bytes.length);
  const end = Math.min(bytes.length, start + length);
  const [before, between, after] = [bytes.subarray(0, start), bytes.subarray(start, end), bytes.subarray(end)];
  switch (how) {
    case 'flip':
      return Buffer.concat([before, between.map((byte, i) => byte ^ (given[i % given.length] ?? 1)), after]);
    case 'set':
      return Buffer.concat([before, given, bytes.subarray(start + given.length)]);
    case 'drop':
      return Buffer.concat([before, after]);
    case 'insert':
      return Buffer.concat([before, given, between, after]);
    case 'double':
      return Buffer.concat([before, between, between, after]);
    case 'cut':
      return before;
    case 'splice':
      return Buffer.concat([before, other.subarray(Math.floor(at * other.length))]);
  }
}
