import { timestampMs } from '@bufbuild/protobuf/wkt';
import { type AuditEntry, type AuditLog, nobody, noObject } from '../audit/port.ts';
import { accessTokenKind } from '../domain/access_token.ts';
import { CompactedError } from '../domain/errors.ts';
import { joinTokenKind } from '../domain/join_token.ts';
import { type KindName, kinds } from '../domain/kinds.ts';
import { metadataOf, type ObjectMessage } from '../domain/object.ts';
import { quotaKind } from '../domain/quota.ts';
import { decode } from '../domain/record.ts';
import type { Change, Store, StoredObject } from '../store/port.ts';

/** More than can be under way at once: what came before so many records is recorded. */
const maxUnderWay = 4_096;
/** Records do not come in the order of revisions, but no further from it than that. */
const maxLooked = 2 * maxUnderWay;
const pageSize = 1_000;
/** A change has its object's `update_time` up to so long before it is committed. */
const commitMs = 60_000;
/** These refusals are certain: nothing was changed. After others something may have been. */
const certain = new Set([
  'aborted',
  'already_exists',
  'invalid_argument',
  'not_found',
  'permission_denied',
  'resource_exhausted',
  'unauthenticated',
]);

/** Where the store is: the next start looks at what came after it. */
export const storeObject = ({ revision }: Pick<Store, 'revision'>) => ({
  ...noObject,
  kind: 'Store',
  name: 'sqlite',
  revision,
});

/**
 * The records of changes by callers that are in the store and not in the log: a crash came between the two, and the callers were told nothing. Who they
 * were is not known any more. Where the feed does not go back to where the records do, it is looked at as far as it goes: what was under way is not so old.
 */
export async function unrecordedChanges(
  store: Pick<Store, 'changesSince' | 'revision'>,
  audit: Pick<AuditLog, 'read'>,
): Promise<AuditEntry[]> {
  const recorded = await recordedLately(audit);
  const entries: AuditEntry[] = [];
  if (recorded.since === undefined) return entries;
  for (let since = recorded.since; since < store.revision; ) {
    let changes: readonly Change[];
    try {
      changes = await store.changesSince(since, pageSize);
    } catch (error) {
      if (!(error instanceof CompactedError) || error.oldestRevision <= since) throw error;
      since = error.oldestRevision;
      continue;
    }
    for (const change of changes) {
      if (isCallers(change) && !isRecorded(change, recorded)) entries.push(entryOf(change));
    }
    since = changes.at(-1)?.revision ?? store.revision;
  }
  return entries;
}

/** What the newest records are about. */
interface Recorded {
  /** All up to this revision is recorded. Undefined: there are no records to go by. */
  since: number | undefined;
  /** `uid@revision`. */
  readonly changed: Set<string>;
  /** Of objects that were deleted. */
  readonly deleted: Set<string>;
  /** Objects that are named without a revision: by `nameOf`, and by uid. */
  readonly named: Set<string>;
}

async function recordedLately(audit: Pick<AuditLog, 'read'>): Promise<Recorded> {
  const recorded: Recorded = { since: undefined, changed: new Set(), deleted: new Set(), named: new Set() };
  let looked = 0;
  for await (const { kind, code, method, project, objects } of audit.read(undefined)) {
    const [first] = objects;
    if (first?.kind === 'Store') return { ...recorded, since: first.revision };
    const isOne = kind === 'change' ? code !== 'begun' : kind === 'refused' && !certain.has(code);
    if (!isOne) continue;
    for (const { kind: what, bay, name, uid, revision } of objects) {
      if (/\/Delete\w*$/.test(method)) recorded.deleted.add(uid);
      if (revision > 0) recorded.changed.add(`${uid}@${revision}`);
      else for (const key of [uid, nameOf(project, what, bay, name)]) recorded.named.add(key);
      if (revision > 0 && kind === 'change' && looked < maxUnderWay) {
        recorded.since = Math.min(recorded.since ?? revision, revision);
      }
    }
    looked += 1;
    if (looked >= maxLooked) break;
  }
  return recorded;
}

/** Whether it was a caller who asked for it, and not what the control plane or an agent has done since. */
function isCallers(change: Change): boolean {
  const { op, object, previous, previousRevision } = change;
  if (object.kind === quotaKind) return true;
  if (object.kind === accessTokenKind || object.kind === joinTokenKind) {
    // Uses are counted in it, and it is removed in the end.
    return op === 'put' && (previousRevision === 0 || revokeTimeMs(object) !== revokeTimeMs(previous ?? object));
  }
  if (!(object.kind in kinds)) return false;
  // Asked for before, and done when whoever had it has said that it is gone.
  if (op === 'remove') return !object.deleting;
  // One that a cluster brought along.
  if (object.kind === 'Node' && !decode('Node', object).spec?.publicKey) return false;
  if (previousRevision === 0) return true;
  const { etag, updateTime } = metadataIn(object);
  if (previous) return etag !== metadataIn(previous).etag;
  // What it was before is forgotten, so that it was long ago.
  return updateTime !== undefined && timestampMs(updateTime) > change.timeMs - commitMs;
}

function isRecorded({ op, object, revision }: Change, { changed, deleted, named }: Recorded): boolean {
  const { uid, kind, bayUid, name, project } = object;
  if (changed.has(`${uid}@${revision}`) || named.has(uid)) return true;
  const bay = kind in kinds ? metadataIn(object).bay : '';
  if (named.has(nameOf(project, kind, bay, kind === quotaKind ? '' : name))) return true;
  // A bay's end is that of what is in it.
  return (op === 'remove' && deleted.has(uid)) || ((op === 'remove' || object.deleting) && deleted.has(bayUid));
}

/** Tokens have ids, and need no bay; a project has one quota. */
const nameOf = (project: string, kind: string, bay: string, name: string): string =>
  [project, kind, kind in kinds ? bay : '', name].join('/');

function entryOf({ op, object, revision, previousRevision, timeMs }: Change): AuditEntry {
  const { kind, project, namespace, name, uid, generation, deleting } = object;
  const outcome =
    op === 'remove' ? 'removed' : deleting ? 'deleting' : previousRevision === 0 ? 'created' : 'configured';
  const bay = kind in kinds ? metadataIn(object).bay : '';
  const changed = { kind, bay, namespace, name, uid, revision, generation, outcome };
  const message = `of ${new Date(timeMs).toISOString()}, found at the start: a crash came before its record, and its caller was told nothing`;
  return { ...nobody, kind: 'change', method: '', code: 'unacknowledged', project, objects: [changed], message };
}

const metadataIn = (object: StoredObject) => {
  const kind = object.kind as KindName;
  return metadataOf(kind, decode(kind, object) as ObjectMessage);
};

/** Of a token of either kind. */
const revokeTimeMs = ({ body }: StoredObject): unknown => JSON.parse(Buffer.from(body).toString('utf8')).revokeTimeMs;
