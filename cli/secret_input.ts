import { StringDecoder } from 'node:string_decoder';
import { CliError, exitStatus, UsageError } from './errors.ts';
import { type Io, readAll } from './io.ts';

/** Longer ones are no password, but a file by mistake. */
const mostBytes = 16 * 1024;

/** Asks for a secret on the terminal, which does not show it. Rejects with UsageError where there is no terminal. */
export async function promptSecret(io: Io, what: string): Promise<string> {
  const { stdin, stderr } = io;
  if (!stdin.isTTY || !stdin.setRawMode) {
    throw new UsageError(`the ${what} is missing, and there is no terminal to ask on: use --password-stdin`);
  }
  stderr.write(`Enter the ${what}: `);
  const release = io.atExit(() => stdin.setRawMode?.(false));
  stdin.setRawMode(true);
  try {
    return await typed(io);
  } finally {
    stdin.setRawMode(false);
    stdin.pause();
    release();
    stderr.write('\n');
  }
}

/** The secret on stdin, without the end of its line. Rejects with UsageError for one that cannot be. */
export async function readSecret(io: Io): Promise<string> {
  const bytes = await readAll(io.stdin, mostBytes).catch((cause: unknown) => {
    if (cause instanceof RangeError) throw new UsageError('what is on stdin is too long for a password');
    throw cause;
  });
  const secret = Buffer.from(bytes)
    .toString('utf8')
    .replace(/\r?\n$/, '');
  if (secret === '') throw new UsageError('there is no password on stdin');
  if (/[\r\n]/.test(secret)) throw new UsageError('the password on stdin has more than one line');
  return secret;
}

/** What is typed up to the end of the line. Backspace and Ctrl-U take away; Ctrl-C and Ctrl-D end it. */
function typed({ stdin, signal }: Io): Promise<string> {
  const decoder = new StringDecoder('utf8');
  const characters: string[] = [];
  return new Promise((resolve, reject) => {
    const settle = (finish: () => void): void => {
      stdin.off('data', take);
      stdin.off('end', interrupt);
      signal.removeEventListener('abort', interrupt);
      finish();
    };
    const interrupt = (): void => settle(() => reject(new CliError('interrupted', exitStatus.interrupted)));
    const take = (chunk: Buffer | string): void => {
      for (const character of typeof chunk === 'string' ? chunk : decoder.write(chunk)) {
        if (character === '\r' || character === '\n') {
          settle(() => resolve(characters.join('')));
          return;
        }
        if (character === '\x03' || character === '\x04') {
          interrupt();
          return;
        }
        if (character === '\x7f' || character === '\b') characters.pop();
        else if (character === '\x15') characters.length = 0;
        else if (character >= ' ') characters.push(character);
      }
    };
    stdin.on('data', take);
    stdin.once('end', interrupt);
    signal.addEventListener('abort', interrupt, { once: true });
    if (signal.aborted) interrupt();
  });
}
