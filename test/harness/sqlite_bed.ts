import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import type { StoreBed } from '../../control-plane/store/contract_bed.ts';
import type { Store } from '../../control-plane/store/port.ts';
import { openSqliteStore } from '../../control-plane/store/sqlite.ts';

export const makeStoreFolder = (): Promise<string> => mkdtemp(join(tmpdir(), 'baykeeper-store-'));

/** A store in SQLite, for the contract of stores. */
export async function openSqliteBed(): Promise<StoreBed> {
  const folder = await makeStoreFolder();
  const clock = { nowMs: 0, now: () => clock.nowMs };
  const log = pino({ level: 'silent' });
  const openIt = (): Promise<Store> => openSqliteStore({ file: join(folder, 'store.db'), clock, log });
  let store = await openIt();
  return {
    store,
    clock,
    reopen: async () => {
      await store.close();
      store = await openIt();
      return store;
    },
    dispose: async () => {
      await store.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
