/** A reason to stop that the person at the keyboard can act on. */
export declare class SetupError extends Error {}
/** It was told to end before it was done. */
export declare class Interrupted extends SetupError {}
/** The full path of a program of this machine, or undefined. */
export declare function findProgram(name: string): string | undefined;
export declare function systemEnvironment(extra?: Readonly<Record<string, string>>): Record<string, string | undefined>;
export interface RunOptions {
  readonly logFile: string;
  /** What the SetupError says first. */
  readonly failure: string;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
}
export declare function run(command: string, args: readonly string[], options: RunOptions): Promise<void>;
export declare function step(say: (text: string) => void, text: string, work: () => Promise<void>): Promise<void>;
