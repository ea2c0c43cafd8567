import { escapeLine, escapeText } from './output/escape.ts';

/** Exit statuses, as `bayctl --help` lists them. Scripts rely on them: they never change their meaning. */
export const exitStatus = {
  ok: 0,
  failed: 1,
  usage: 2,
  denied: 3,
  notFound: 4,
  conflict: 5,
  unavailable: 6,
  deadline: 7,
  invalid: 8,
  unimplemented: 9,
  interrupted: 130,
} as const;

/** Ends the command with a message for the user and an exit status. */
export class CliError extends Error {
  readonly exitStatus: number;
  /** Of the call that failed, when there was one. */
  readonly requestId: string;
  constructor(message: string, status: number = exitStatus.failed, options?: ErrorOptions & { requestId?: string }) {
    super(message, options);
    this.name = this.constructor.name;
    this.exitStatus = status;
    this.requestId = options?.requestId ?? '';
  }
}

/** What was typed cannot be meant. */
export class UsageError extends CliError {
  constructor(message: string, options?: ErrorOptions) {
    super(message, exitStatus.usage, options);
  }
}

/** Ends the command with a status, and says nothing: all is said. */
export class SilentExit extends CliError {
  constructor(status: number) {
    super('', status);
  }
}

/** gRPC codes (https://grpc.io/docs/guides/status-codes/), by number: name, and the exit status that stands for it. */
const codes: readonly (readonly [string, number])[] = [
  ['OK', exitStatus.ok],
  ['CANCELLED', exitStatus.interrupted],
  ['UNKNOWN', exitStatus.failed],
  ['INVALID_ARGUMENT', exitStatus.invalid],
  ['DEADLINE_EXCEEDED', exitStatus.deadline],
  ['NOT_FOUND', exitStatus.notFound],
  ['ALREADY_EXISTS', exitStatus.conflict],
  ['PERMISSION_DENIED', exitStatus.denied],
  ['RESOURCE_EXHAUSTED', exitStatus.unavailable],
  ['FAILED_PRECONDITION', exitStatus.conflict],
  ['ABORTED', exitStatus.conflict],
  ['OUT_OF_RANGE', exitStatus.invalid],
  ['UNIMPLEMENTED', exitStatus.unimplemented],
  ['INTERNAL', exitStatus.failed],
  ['UNAVAILABLE', exitStatus.unavailable],
  ['DATA_LOSS', exitStatus.failed],
  ['UNAUTHENTICATED', exitStatus.denied],
];

/** `NOT_FOUND` for 5. */
export function codeName(code: number): string {
  return codes[code]?.[0] ?? `CODE_${code}`;
}

/** The exit status for a gRPC code. */
export function codeStatus(code: number): number {
  return codes[code]?.[1] ?? exitStatus.failed;
}

/** The lines that stderr gets for what was thrown, and the exit status. `verbose` adds the request's id and the causes. */
export function renderError(error: unknown, verbose: boolean): { readonly text: string; readonly status: number } {
  if (error instanceof SilentExit) return { text: '', status: error.exitStatus };
  if (error instanceof CliError) {
    const id = verbose && error.requestId ? `request id: ${escapeLine(error.requestId)}\n` : '';
    return {
      text: `Error: ${escapeText(error.message)}\n${id}${verbose ? causes(error) : ''}`,
      status: error.exitStatus,
    };
  }
  const message = error instanceof Error ? error.message : String(error);
  const stack = verbose && error instanceof Error && error.stack ? `${escapeText(error.stack)}\n` : '';
  return { text: `Error: ${escapeText(message)}\n${stack}`, status: exitStatus.failed };
}

function causes(error: Error): string {
  const lines: string[] = [];
  let cause = error.cause;
  for (let depth = 0; cause instanceof Error && depth < 5; depth++) {
    lines.push(`caused by: ${escapeText(cause.message)}\n`);
    cause = cause.cause;
  }
  return lines.join('');
}
