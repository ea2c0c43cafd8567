import type { EngineExec, EngineOutput, OutputChunk } from './driver.ts';

/** What a command says, if it is `echo`. */
export function echoed(command: readonly string[]): Uint8Array | undefined {
  const words = command.map((word) => word.replace(/^\/bin\//, ''));
  return words[0] === 'echo' ? Buffer.from(`${words.slice(1).join(' ')}\n`) : undefined;
}

export function fakeOutput(chunks: readonly OutputChunk[]): EngineOutput {
  return {
    chunks: (async function* () {
      yield* chunks;
    })(),
    close: () => undefined,
  };
}

/** Knows `echo`, `cat` (of its input), `true` and `false`. */
export function fakeExec(command: readonly string[]): EngineExec {
  const program = command
    .join(' ')
    .replace(/^\/bin\//, '')
    .split(' ')[0];
  const input: Uint8Array[] = [];
  let ended: () => void = () => undefined;
  const inputEnded = new Promise<void>((resolve) => {
    ended = resolve;
  });
  const chunks = (async function* (): AsyncGenerator<OutputChunk> {
    const text = echoed(command);
    if (text) yield { stream: 'stdout', data: text };
    if (program !== 'cat') return;
    await inputEnded;
    yield { stream: 'stdout', data: Buffer.concat(input) };
  })();
  return {
    chunks,
    write: async (data) => void input.push(data),
    endInput: () => ended(),
    resize: async () => undefined,
    exitCode: async () => (program === 'false' ? 1 : 0),
    close: () => ended(),
  };
}
