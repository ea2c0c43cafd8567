import type { ExecuteRequest } from '../proto/gen/baykeeper/v1/container_service_pb.js';
import type { ExecutePodRequest } from '../proto/gen/baykeeper/v1/pod_service_pb.js';

/** What the two calls that run a command take. */
export type ExecRequest = ExecuteRequest | ExecutePodRequest;

/** What they answer. */
export interface ExecOutput {
  readonly output:
    | { readonly case: 'stdout' | 'stderr'; readonly value: Uint8Array<ArrayBuffer> }
    | { readonly case: 'exitCode'; readonly value: number };
}

/** Says back its input; `exit N` ends with N; `size` tells the terminal's. */
export async function* echo(requests: AsyncIterable<ExecRequest>): AsyncIterable<ExecOutput> {
  const encoder = new TextEncoder();
  const out = (text: string): ExecOutput => ({ output: { case: 'stdout', value: encoder.encode(text) } });
  const end = (value: number): ExecOutput => ({ output: { case: 'exitCode', value } });
  for await (const { input } of requests) {
    if (input.case === 'start') {
      const [word, argument = '0'] = input.value.command;
      if (word === 'exit') {
        yield { output: { case: 'stderr', value: encoder.encode('ending\n') } };
        yield end(Number(argument));
        return;
      }
      yield out(
        `ran ${input.value.command.join(' ')} tty=${input.value.tty} size=${input.value.terminalSize?.columns ?? 0}x${input.value.terminalSize?.rows ?? 0}\r\n`,
      );
      if (!input.value.stdin) {
        yield end(0);
        return;
      }
    } else if (input.case === 'stdin') {
      const text = new TextDecoder().decode(input.value);
      yield out(`got ${JSON.stringify(text)}\r\n`);
      if (text.includes('\x04')) {
        yield end(7);
        return;
      }
    } else if (input.case === 'resize') {
      yield out(`resized ${input.value.columns}x${input.value.rows}\r\n`);
    } else if (input.case === 'stdinEnd') {
      yield end(0);
      return;
    }
  }
}
