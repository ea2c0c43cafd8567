import { create } from '@bufbuild/protobuf';
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import {
  AuditedObjectSchema,
  type AuditFilter,
  type AuditRecord as AuditRecordMessage,
  AuditRecordSchema,
  type AuditService,
} from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import type { AuditLog, AuditRecord } from '../audit/port.ts';
import { InvalidError } from '../domain/errors.ts';
import type { Store } from '../store/port.ts';
import { addEffects } from './audit_effects.ts';

export interface AuditMethodsOptions {
  readonly audit: AuditLog;
  readonly store: Pick<Store, 'get'>;
}

const maxPageSize = 1_000;
/** How many records are looked at for one page: a filter that matches nothing must not read for ever. */
const maxLooked = 200_000;
/** So many records in a row before the time that is asked for, and what is before them is older, too: clocks are wrong at times, and for a while. */
const maxOlder = 10_000;
/** How many records wait in memory for a caller that reads slowly. */
const maxBehind = 10_000;

export function auditMethods({ audit, store }: AuditMethodsOptions): ServiceImpl<typeof AuditService> {
  return {
    async listAuditRecords({ filter, pageSize, pageToken, effects }) {
      const wanted = matcher(filter);
      const limit = Math.min(pageSize || 100, maxPageSize);
      const sinceMs = filter?.sinceTime ? timestampMs(filter.sinceTime) : 0;
      const records: AuditRecordMessage[] = [];
      let looked = 0;
      let older = 0;
      let nextPageToken = '';
      for await (const record of audit.read(pageToken === '' ? undefined : Number(pageToken))) {
        older = record.timeMs < sinceMs ? older + 1 : 0;
        if (older > maxOlder) break;
        looked += 1;
        if (wanted(record)) records.push(messageOf(record));
        if (records.length < limit && looked < maxLooked) continue;
        if (record.sequence > 1) nextPageToken = String(record.sequence);
        break;
      }
      if (effects) await addEffects({ store, audit }, records);
      return { records, nextPageToken };
    },

    async *followAuditRecords({ filter, afterSequence }, { signal }) {
      const wanted = matcher(filter);
      const waiting: AuditRecord[] = [];
      let wake: () => void = () => undefined;
      /** Whether there are records after `last` that do not wait here: they are read from the disk. */
      let behind = afterSequence > 0n;
      const unsubscribe = audit.subscribe((records) => {
        waiting.push(...records);
        if (waiting.length > maxBehind) {
          behind = true;
          waiting.length = 0;
        }
        wake();
      });
      const aborted = (): void => wake();
      signal.addEventListener('abort', aborted);
      try {
        let last = Number(afterSequence) || audit.head.sequence;
        while (!signal.aborted) {
          const fromDisk = behind;
          behind = false;
          for await (const record of fromDisk ? audit.readAfter(last) : waiting.splice(0)) {
            if (signal.aborted) return;
            if (record.sequence <= last) continue;
            last = record.sequence;
            if (wanted(record)) yield { record: messageOf(record) };
          }
          if (behind || waiting.length > 0) continue;
          const { promise, resolve } = Promise.withResolvers<void>();
          wake = resolve;
          if (!signal.aborted) await promise;
        }
      } finally {
        unsubscribe();
        signal.removeEventListener('abort', aborted);
      }
    },

    async verifyAudit({ expectedSequence, expectedHash }) {
      if (expectedSequence > 0n !== (expectedHash !== '')) {
        throw new InvalidError('expected_hash', 'goes with expected_sequence');
      }
      const expected = expectedHash ? [{ sequence: Number(expectedSequence), hash: expectedHash }] : [];
      const { head, records, files, problems } = await audit.verify(expected);
      return {
        intact: problems.length === 0,
        records: BigInt(records),
        files,
        headSequence: BigInt(head.sequence),
        headHash: head.hash,
        problems: [...problems],
      };
    },
  };
}

function matcher(filter: AuditFilter | undefined): (record: AuditRecord) => boolean {
  const { project = '', subject = '', method = '', kind = '', object = '', sinceTime } = filter ?? {};
  const part = method.toLowerCase();
  const sinceMs = sinceTime ? timestampMs(sinceTime) : 0;
  return (record) =>
    (project === '' || record.project === project) &&
    (subject === '' || record.subject === subject) &&
    (kind === '' ? record.kind !== 'effect' : record.kind === kind) &&
    (part === '' || record.method.toLowerCase().includes(part)) &&
    (object === '' || record.objects.some(({ name, uid }) => name === object || uid === object)) &&
    record.timeMs >= sinceMs;
}

function messageOf(record: AuditRecord): AuditRecordMessage {
  const { sequence, previous, timeMs, count, objects, ...same } = record;
  return create(AuditRecordSchema, {
    ...same,
    sequence: BigInt(sequence),
    previousHash: previous,
    time: timestampFromMs(timeMs),
    count: BigInt(count),
    objects: objects.map(({ revision, generation, ...object }) =>
      create(AuditedObjectSchema, { ...object, revision: BigInt(revision), generation: BigInt(generation) }),
    ),
  });
}
