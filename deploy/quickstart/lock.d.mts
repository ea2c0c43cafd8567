export interface LockOptions {
  readonly say: (text: string) => void;
  /** What holds the lock, for whoever has to wait. */
  readonly waitingFor: string;
  /** Default 15 minutes. */
  readonly timeoutMs?: number;
}
export declare function withLock<T>(file: string, options: LockOptions, work: () => Promise<T>): Promise<T>;
