import type { ExecutionContext } from 'ava';
import type { Store } from './port.ts';

/** A store to test, empty at first. */
export interface StoreBed {
  readonly store: Store;
  /** The time that the store sees. */
  readonly clock: { nowMs: number };
  /** Closes the store and opens it again with what it holds. */
  reopen(): Promise<Store>;
  /** Closes the store and removes what it holds. */
  dispose(): Promise<void>;
}

/** Declares one test of what every store must do. */
export type ContractTest = (
  title: string,
  body: (t: ExecutionContext, store: Store, bed: StoreBed) => Promise<void>,
) => void;
