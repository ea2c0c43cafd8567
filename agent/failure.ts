/** What the agent exits with: a failure, a setting or a kept file that cannot be, a refusal by the control plane, a control plane that cannot be reached. */
export const exitCodes = { failed: 1, config: 2, refused: 3, unreachable: 4 } as const;

const codeByName: Readonly<Record<string, number>> = {
  ConfigError: exitCodes.config,
  NotJoinedError: exitCodes.config,
  PolicyError: exitCodes.config,
  IdentityError: exitCodes.config,
  EnrollError: exitCodes.refused,
};

/** Prints one sentence for people, and sets the exit code. By name, so that nothing need be loaded to know an error by. */
export function reportFailure(error: unknown): void {
  const { name = '', message = String(error), kind } = error as { name?: string; message?: string; kind?: unknown };
  process.stderr.write(`baykeeper-agent: ${message}\n`);
  process.exitCode = kind === 'unavailable' ? exitCodes.unreachable : (codeByName[name] ?? exitCodes.failed);
}
