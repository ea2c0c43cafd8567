import { Code, ConnectError } from '@connectrpc/connect';
import type { ExecutionContext } from 'ava';

/** Holds that a call fails with this code, and says this. Resolves to its error. */
export async function refused(
  t: ExecutionContext,
  call: Promise<unknown>,
  code: Code,
  message?: RegExp,
): Promise<ConnectError> {
  const error = ConnectError.from(await t.throwsAsync(call));
  t.is(Code[error.code], Code[code], error.message);
  if (message) t.regex(error.rawMessage, message);
  return error;
}
