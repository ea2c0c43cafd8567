import { createHash } from 'node:crypto';
import { InvalidError } from './errors.ts';

/** What a list asks for; a page token belongs to one. */
export interface PageQuery {
  readonly kind: string;
  readonly project: string;
  readonly bayUid: string;
  readonly namespace: string;
  readonly filter: string;
  readonly orderBy: string;
}

/** Where a page ended: `ListPosition` of store/port.ts. */
export interface PagePosition {
  readonly namespace: string;
  readonly name: string;
  readonly createTimeMs: number;
  readonly uid: string;
}

/** What a page token says. */
export interface PageCursor {
  readonly after: PagePosition;
  /** The store's revision at the first page. */
  readonly revision: number;
}

export const defaultPageSize = 100;
export const maxPageSize = 1000;
/** What is on a page is about so large at the most, however few objects that are. */
export const maxPageBytes = 8 * 1024 * 1024;

/** How many a page holds; 0 means the default, and more than the most means the most. Throws InvalidError. */
export function pageSizeOf(asked: number): number {
  if (asked < 0) throw new InvalidError('page_size', 'must not be negative');
  return asked === 0 ? defaultPageSize : Math.min(asked, maxPageSize);
}

const digestOf = (query: PageQuery): string =>
  createHash('sha256')
    .update(JSON.stringify([query.kind, query.project, query.bayUid, query.namespace, query.filter, query.orderBy]))
    .digest('base64url')
    .slice(0, 16);

/** The token for the page after `cursor.after`. */
export function encodePageToken(query: PageQuery, cursor: PageCursor): string {
  const { namespace, name, createTimeMs, uid } = cursor.after;
  const fields = [1, digestOf(query), cursor.revision, namespace, name, createTimeMs, uid];
  return Buffer.from(JSON.stringify(fields)).toString('base64url');
}

/** Undefined for an empty token: the first page. Throws InvalidError for one that is no token, or of another list. */
export function decodePageToken(query: PageQuery, token: string): PageCursor | undefined {
  if (token === '') return undefined;
  const fields = parse(token);
  if (!Array.isArray(fields) || fields.length !== 7) throw unreadable();
  const [version, digest, revision, namespace, name, createTimeMs, uid] = fields as unknown[];
  if (
    version !== 1 ||
    !isCount(revision) ||
    !isCount(createTimeMs) ||
    typeof namespace !== 'string' ||
    typeof name !== 'string' ||
    typeof uid !== 'string'
  ) {
    throw unreadable();
  }
  if (digest !== digestOf(query)) {
    throw new InvalidError(
      'page_token',
      'is of another list: the other fields must be as they were for the page before',
    );
  }
  return { after: { namespace, name, createTimeMs, uid }, revision };
}

function parse(token: string): unknown {
  const bytes = Buffer.from(token, 'base64url');
  // The decoder skips what it does not know.
  if (bytes.toString('base64url') !== token) throw unreadable();
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    throw new InvalidError('page_token', 'is not one that a list has given', { cause: error });
  }
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const unreadable = (): InvalidError => new InvalidError('page_token', 'is not one that a list has given');

/** Takes apart `order_by`. Throws InvalidError. */
export function parseOrderBy(orderBy: string): {
  readonly orderBy: 'name' | 'createTime';
  readonly descending: boolean;
} {
  const match = /^\s*(?:(name|create_time|createTime)(?:\s+(asc|desc))?)?\s*$/.exec(orderBy);
  if (!match)
    throw new InvalidError(
      'order_by',
      `"${orderBy}" is not known: it is "name" or "create_time", with " desc" for the reverse`,
    );
  return {
    orderBy: match[1] === undefined || match[1] === 'name' ? 'name' : 'createTime',
    descending: match[2] === 'desc',
  };
}
