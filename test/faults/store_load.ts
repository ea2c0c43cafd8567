/**
 * A process that loads a store until it is killed: `node store_load.ts FILE`. Opens the store when it is told to by a line on stdin,
 * which is the revision up to which it may forget changes. Prints each write that was acknowledged as a line of JSON (Acknowledged).
 */
import { writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { v7 } from 'uuid';
import { PreconditionError } from '../../control-plane/domain/errors.ts';
import type { StoredObject, Write, WriteView } from '../../control-plane/store/port.ts';
import { openSqliteStore } from '../../control-plane/store/sqlite.ts';

export interface Acknowledged {
  /** Revisions of the changes, which are one write. */
  readonly revisions: readonly number[];
  readonly uids: readonly string[];
  readonly op: 'put' | 'remove';
  readonly requestId: string;
}

const writers = 32;
const objects = 400;
const nodes = 5;
const log = { info: () => undefined, warn: console.error, error: console.error };
const random = (below: number): number => Math.floor(Math.random() * below);

/** Object n; its body says which other objects were written together with it. */
const objectOf = (n: number, revision: number, requestId: string, partners: readonly string[]): StoredObject => ({
  uid: `uid-${n}`,
  kind: 'Container',
  project: 'red',
  bayUid: 'bay-1',
  namespace: 'default',
  name: `name-${n}`,
  assigneeUid: `node-${n % nodes}`,
  generation: revision,
  deleting: false,
  revision,
  epoch: 1,
  sequence: revision,
  createTimeMs: 1000 + n,
  body: Buffer.from(JSON.stringify({ revision, requestId, partners, filler: 'x'.repeat(random(900)) })),
});

const keysOf = (n: number): Write<unknown>['reads'] => {
  const { uid, kind, project, bayUid, namespace, name } = objectOf(n, 0, '', []);
  return [{ uid }, { kind, project, bayUid, namespace, name }];
};

const randomWrite = (): Write<Acknowledged> => {
  const requestId = v7();
  const first = random(objects);
  const chosen = Math.random() < 0.3 ? [first, (first + 7) % objects, (first + 31) % objects] : [first];
  const removes = Math.random() < 0.15;
  const fails = Math.random() < 0.1;
  const uids = chosen.map((n) => `uid-${n}`);
  const apply = (view: WriteView): Acknowledged => {
    const revisions: number[] = [];
    view.remember(uids.join(' '), 'fingerprint');
    if (removes)
      for (const n of chosen) if (view.get({ uid: `uid-${n}` })) view.remove(`uid-${n}`, `node-${n % nodes}`);
    if (!removes) {
      for (const n of chosen) {
        const chain = Math.random() < 0.5 ? `node-${n % nodes}` : '';
        revisions.push(view.put((revision) => objectOf(n, revision, requestId, uids), chain).revision);
      }
    }
    if (fails) throw new PreconditionError('this one fails');
    return { revisions, uids, op: removes ? 'remove' : 'put', requestId };
  };
  return { reads: chosen.flatMap(keysOf), request: { project: 'red', requestId }, apply };
};

const run = async (file: string): Promise<void> => {
  writeSync(1, '"ready"\n');
  const { value } = await createInterface({ input: process.stdin })[Symbol.asyncIterator]().next();
  const store = await openSqliteStore({ file, clock: Date, log });
  const load = async (): Promise<never> => {
    for (;;) {
      try {
        writeSync(1, `${JSON.stringify(await store.write(randomWrite()))}\n`);
      } catch (error) {
        if (!(error instanceof PreconditionError)) throw error;
      }
    }
  };
  await Promise.all([...Array.from({ length: writers }, load), store.compact(Number(value), 0)]);
};

await run(process.argv[2] ?? '');
