import { hash } from 'node:crypto';
import { type AuditEntry, type AuditedObject, type AuditRecord, type ChainHead, noObject } from './port.ts';

/** How a record is a line of JSON, and how lines hang together. Pure. */

/** Before the first record. */
export const origin: ChainHead = { sequence: 0, hash: '0'.repeat(64) };

export const hashOf = (line: string): string => hash('sha256', line, 'hex');

/** What is empty is left out. The order of the fields is part of what is hashed, as every byte of a line is. */
export function writeLine(entry: AuditEntry, before: ChainHead, timeMs: number): { line: string; record: AuditRecord } {
  const { kind, method, code, subject, project, role, peer, requestId, objects, count, message } = entry;
  const line = JSON.stringify({
    sequence: before.sequence + 1,
    previous: before.hash,
    time: new Date(timeMs).toISOString(),
    kind,
    method: method || undefined,
    code: code || undefined,
    subject: subject || undefined,
    project: project || undefined,
    role: role || undefined,
    peer: peer || undefined,
    requestId: requestId || undefined,
    objects: objects.length > 0 ? objects.map(briefly) : undefined,
    count: count === 1 ? undefined : count,
    message: message || undefined,
  });
  const record = { ...entry, sequence: before.sequence + 1, previous: before.hash, timeMs, hash: hashOf(line) };
  return { line, record };
}

const briefly = (object: AuditedObject): object =>
  Object.fromEntries(Object.entries(object).filter(([, value]) => value !== '' && value !== 0));

/** Undefined: it is no record. */
export function readLine(line: string): AuditRecord | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const fields = value as Readonly<Record<string, unknown>>;
  const text = (name: string): string => (typeof fields[name] === 'string' ? fields[name] : '');
  const { sequence, kind, count = 1 } = fields;
  const timeMs = Date.parse(text('time'));
  if (!Number.isSafeInteger(sequence) || !Number.isSafeInteger(count) || Number.isNaN(timeMs)) return undefined;
  if (kind !== 'change' && kind !== 'refused' && kind !== 'system' && kind !== 'effect') return undefined;
  const objects = readObjects(fields.objects ?? []);
  if (!objects) return undefined;
  return {
    kind,
    sequence: sequence as number,
    previous: text('previous'),
    hash: hashOf(line),
    timeMs,
    method: text('method'),
    code: text('code'),
    subject: text('subject'),
    project: text('project'),
    role: text('role'),
    peer: text('peer'),
    requestId: text('requestId'),
    message: text('message'),
    count: count as number,
    objects,
  };
}

/** Undefined: these are none. */
function readObjects(value: unknown): readonly AuditedObject[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const objects = value.map((one): AuditedObject => ({ ...noObject, ...one }));
  return objects.every(isObject) ? objects : undefined;
}

const isObject = (object: AuditedObject): boolean =>
  Object.entries(noObject).every(([name, empty]) => {
    const value = object[name as keyof AuditedObject];
    return typeof empty === 'number' ? Number.isSafeInteger(value) : typeof value === 'string';
  });

/** Holds the next line against those before it. Returns what it is, or what is wrong with it. */
export function follow(before: ChainHead, line: string): { readonly record?: AuditRecord; readonly problem?: string } {
  const record = readLine(line);
  if (!record) return { problem: 'it is no record' };
  if (record.sequence !== before.sequence + 1) {
    return { record, problem: `it has number ${record.sequence} where ${before.sequence + 1} was to come` };
  }
  if (record.previous !== before.hash) {
    return { record, problem: `it does not follow record ${before.sequence} as that is now: one of them was changed` };
  }
  return { record };
}
