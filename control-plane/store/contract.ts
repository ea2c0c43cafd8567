import type { ExecutionContext, TestFn } from 'ava';
import { propertyContract } from './contract_properties.ts';
import { chainContract, feedContract, listContract } from './contract_reads.ts';
import { watchContract } from './contract_watch.ts';
import { requestContract, writeContract } from './contract_writes.ts';
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

export type ContractTest = (
  title: string,
  body: (t: ExecutionContext, store: Store, bed: StoreBed) => Promise<void>,
) => void;

/** What every store must do. Declares its tests with `test`; each opens a store of its own. */
export const storeContract = (test: TestFn, open: () => Promise<StoreBed>): void => {
  const check: ContractTest = (title, body) =>
    test(title, async (t) => {
      const bed = await open();
      try {
        await body(t, bed.store, bed);
      } finally {
        await bed.dispose();
      }
    });
  writeContract(check);
  requestContract(check);
  listContract(check);
  chainContract(check);
  feedContract(check);
  watchContract(check);
  propertyContract(test, open);
};
