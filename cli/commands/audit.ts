import { type MessageInitShape, toJson } from '@bufbuild/protobuf';
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import {
  AuditEffectStateSchema,
  type AuditedObject,
  type AuditFilterSchema,
  type AuditRecord,
  AuditRecordSchema,
  AuditService,
  VerifyAuditResponseSchema,
} from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import { parsePositiveCount, parsePositiveDuration, parseTime } from '../args.ts';
import { SilentExit, UsageError } from '../errors.ts';
import { isoTime } from '../output/age.ts';
import { enumName } from '../output/enum_name.ts';
import { escapeLine } from '../output/escape.ts';
import { jsonLine } from '../output/object_json.ts';
import { type OutputFormat, parseOutput, printValue } from '../output/printer.ts';
import { Table } from '../output/table.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';

interface AuditFlags {
  readonly follow?: boolean;
  readonly limit: number;
  readonly since?: number;
  readonly sinceTime?: number;
  readonly subject?: string;
  readonly method?: string;
  readonly kind?: string;
  readonly object?: string;
  readonly effects?: boolean;
  readonly output?: string;
  readonly headers: boolean;
}

const pageSize = 500;

/** `bayctl audit`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('audit')
    .description('show who changed what, and which calls were refused: admins only')
    .option('-f, --follow', 'go on with what comes')
    .option('--limit <count>', 'the newest so many', parsePositiveCount, 50)
    .option('--since <time>', 'only what is not older than this: 10m', parsePositiveDuration)
    .option('--since-time <time>', 'only what was recorded at or after this time (RFC 3339)', parseTime)
    .option('--subject <name>', 'only calls of this caller')
    .option('--method <text>', 'only methods with this in their names: Delete')
    .option('--kind <kind>', 'only change, refused, system, or effect: what agents have done')
    .option('--object <name>', 'only what is about the object with this name or uid')
    .option('--effects', "say what the objects' agents have done about it since")
    .option('-o, --output <format>', 'json, yaml or jsonpath=TEMPLATE')
    .option('--no-headers', 'no titles over the columns')
    .action(async (flags: AuditFlags, self: Command) => show(await environment.open(self), flags));
  examples(
    withGlobals(command),
    'bayctl audit --since 1h --effects',
    'bayctl audit --project red --kind refused',
    'bayctl audit --object web -o json',
    'bayctl audit -f',
    'bayctl audit verify',
  );
  const verify = command
    .command('verify')
    .description("hold the whole log against its chain of hashes; prints the newest record's, to be noted elsewhere")
    .option('--expect <sequence:hash>', 'a record that was noted before, which must be there as it was', parseHead)
    .option('-o, --output <format>', 'json, yaml or jsonpath=TEMPLATE')
    .action(async (flags: { expect?: Head; output?: string }, self: Command) =>
      holdAgainst(await environment.open(self), flags),
    );
  examples(withGlobals(verify), 'bayctl audit verify', 'bayctl audit verify --expect 1842:9f86d081…');
}

async function show(session: Session, flags: AuditFlags): Promise<void> {
  const format = await parseOutput(flags.output);
  const filter = filterOf(session, flags);
  const records = await newest(session, filter, flags);
  if (format.type !== 'table' && !flags.follow) {
    const items = records.map((record) => toJson(AuditRecordSchema, record, { alwaysEmitImplicit: true }));
    await printValue(session.io.stdout, format, { items });
    return;
  }
  const { isTTY, columns } = session.io.stdout;
  const titles = ['#', 'TIME', 'WHO', 'PROJECT', 'CALL', 'OBJECT', 'OUTCOME', ...(flags.effects ? ['EFFECT'] : [])];
  const table = new Table(
    titles.map((title) => ({ title, shrinks: title === 'OBJECT' || title === 'EFFECT' })),
    { header: flags.headers, ...(isTTY ? { maxWidth: columns } : {}) },
  );
  const print = async (some: readonly AuditRecord[]): Promise<void> => {
    if (await printLines(session, format, some)) return;
    await session.out(table.render(some.map((record) => rowOf(record, flags.effects === true))));
  };
  if (records.length === 0 && !flags.follow) await session.err('No records found.\n');
  else if (records.length > 0) await print(records);
  if (!flags.follow) return;
  session.io.endWithReader();
  const afterSequence = records.at(-1)?.sequence ?? 0n;
  const request = { filter, afterSequence };
  for await (const { record } of session.api.stream(AuditService.method.followAuditRecords, request)) {
    if (record) await print([record]);
  }
}

/** One document for each record, for programs that read them as they come. */
async function printLines(session: Session, format: OutputFormat, records: readonly AuditRecord[]): Promise<boolean> {
  if (format.type === 'table') return false;
  for (const record of records) {
    const value = toJson(AuditRecordSchema, record, { alwaysEmitImplicit: true });
    if (format.type === 'json') await session.out(jsonLine(value));
    else {
      if (format.type === 'yaml') await session.out('---\n');
      await printValue(session.io.stdout, format, value);
      if (format.type === 'jsonpath') await session.out('\n');
    }
  }
  return true;
}

type Filter = MessageInitShape<typeof AuditFilterSchema>;

function filterOf(session: Session, flags: AuditFlags): Filter {
  const { subject = '', method = '', kind = '', object = '' } = flags;
  if (flags.since !== undefined && flags.sinceTime !== undefined)
    throw new UsageError('give --since or --since-time, not both');
  if (!['', 'change', 'refused', 'system', 'effect'].includes(kind))
    throw new UsageError('--kind: expected change, refused, system or effect');
  const sinceMs = flags.since === undefined ? flags.sinceTime : session.io.nowMs() - flags.since;
  return {
    project: session.flags.project ?? '',
    subject,
    method,
    kind,
    object,
    ...(sinceMs === undefined ? {} : { sinceTime: timestampFromMs(sinceMs) }),
  };
}

/** Oldest first. */
async function newest(
  session: Session,
  filter: Filter,
  { limit, effects = false }: AuditFlags,
): Promise<AuditRecord[]> {
  const records: AuditRecord[] = [];
  let pageToken = '';
  do {
    const request = { filter, effects, pageToken, pageSize: Math.min(pageSize, limit - records.length) };
    const page = await session.api.unary(AuditService.method.listAuditRecords, request);
    records.push(...page.records);
    pageToken = page.nextPageToken;
  } while (pageToken !== '' && records.length < limit);
  return records.reverse();
}

const maxObjects = 3;

function rowOf(record: AuditRecord, effects: boolean): string[] {
  const { sequence, time, subject, project, method, objects, code, count, message, peer } = record;
  const names = objects.slice(0, maxObjects).map(nameOf);
  if (objects.length > maxObjects) names.push(`and ${objects.length - maxObjects} more`);
  const call = method.slice(method.indexOf('/') + 1);
  return [
    String(sequence),
    time ? isoTime(timestampMs(time)) : '',
    subject || (peer ? `nobody at ${peer}` : '-'),
    project || '-',
    count > 1n ? `${call} ×${count}` : call || '-',
    [names.join(', '), message].filter(Boolean).join(': ') || '-',
    code,
    ...(effects ? [objects.slice(0, maxObjects).map(effectOf).join(', ') || '-'] : []),
  ];
}

function nameOf({ kind, bay, namespace, name, uid, revision, outcome }: AuditedObject): string {
  const place = [bay, namespace === 'default' ? '' : namespace].filter(Boolean).join('/');
  const what = `${kind.toLowerCase()}/${name || uid}`;
  return [what, place && `in ${place}`, revision > 0n ? `@${revision}` : '', outcome].filter(Boolean).join(' ');
}

function effectOf({ effect }: AuditedObject): string {
  if (!effect) return '-';
  const { state, node, time, reason, message } = effect;
  const said = [reason, message].filter(Boolean).join(': ');
  const by = [node && `by ${node}`, time && `at ${isoTime(timestampMs(time))}`].filter(Boolean).join(' ');
  return [enumName(AuditEffectStateSchema, state), by, said].filter(Boolean).join(' ');
}

interface Head {
  readonly sequence: bigint;
  readonly hash: string;
}

function parseHead(text: string): Head {
  const match = /^([1-9]\d{0,15}):([0-9a-f]{64})$/.exec(text);
  if (!match?.[1] || !match[2]) throw new UsageError('--expect: expected SEQUENCE:HASH, as audit verify prints it');
  return { sequence: BigInt(match[1]), hash: match[2] };
}

/** It takes some seconds for a million records. */
const verifyTimeoutMs = 15 * 60_000;

async function holdAgainst(session: Session, flags: { expect?: Head; output?: string }): Promise<void> {
  const format = await parseOutput(flags.output);
  const { expect } = flags;
  const request = expect ? { expectedSequence: expect.sequence, expectedHash: expect.hash } : {};
  const timeoutMs = session.flags.requestTimeout ?? verifyTimeoutMs;
  const found = await session.api.unary(AuditService.method.verifyAudit, request, timeoutMs);
  const { intact, records, files, headSequence, headHash, problems } = found;
  const printed = await printValue(
    session.io.stdout,
    format,
    toJson(VerifyAuditResponseSchema, found, { alwaysEmitImplicit: true }),
  );
  if (!printed) {
    const lines = problems.map(({ file, line, message }) => `${file}${line > 0 ? `:${line}` : ''}: ${message}`);
    if (intact) lines.push(`intact: ${records} records in ${files} files`);
    lines.push(`newest: ${headSequence}:${headHash}`);
    await session.out(lines.map((line) => `${escapeLine(line)}\n`).join(''));
  }
  if (!intact) {
    await session.err('Error: the audit log is not as it was written.\n');
    throw new SilentExit(1);
  }
}
