import type { TestFn } from 'ava';
import type { ContractTest, StoreBed } from './contract_bed.ts';
import { chainContract, feedContract, listContract } from './contract_reads.ts';
import { watchContract } from './contract_watch.ts';
import { requestContract, writeContract } from './contract_writes.ts';

/** What every store must do, but for what contract_properties.ts has. Declares its tests with `test`; each opens a store of its own. */
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
};
