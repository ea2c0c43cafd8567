/** The broker cannot be set up. The message is one sentence for whoever runs the control plane: what is wrong, and what to do. */
export class BrokerError extends Error {
  override readonly name = 'BrokerError';
}

/** The `code` of a system error, as `ENOENT`; undefined for anything else. */
export function systemErrorCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** What an unknown thrown value has to say. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
