import { compileFilter } from '../domain/filter.ts';
import { type KindName, type Kinds, kinds } from '../domain/kinds.ts';
import {
  decodePageToken,
  encodePageToken,
  maxPageBytes,
  maxPageSize,
  pageSizeOf,
  parseOrderBy,
} from '../domain/page.ts';
import { present, type Surroundings } from '../domain/present.ts';
import { type Principal, projectOf } from '../domain/principal.ts';
import type { Store, StoredObject } from '../store/port.ts';
import type { BayRef } from './bay_directory.ts';
import { budgeted, Slices } from './filter_budget.ts';

/** A list, as requests ask for one. */
export interface ListRequest {
  /** Empty: every namespace. */
  readonly namespace: string;
  readonly pageSize: number;
  readonly pageToken: string;
  readonly filter: string;
  readonly orderBy: string;
}

export interface ListAnswer<T> {
  readonly objects: T[];
  readonly nextPageToken: string;
  readonly revision: bigint;
}

/** One page. Rejects with InvalidError, and with ExhaustedError when the filter takes too long. */
export async function listObjects<K extends KindName>(
  options: { readonly store: Pick<Store, 'list'>; readonly around: Surroundings },
  principal: Principal,
  kind: K,
  bay: BayRef | undefined,
  request: ListRequest,
): Promise<ListAnswer<Kinds[K]>> {
  const { store, around } = options;
  const pageSize = pageSizeOf(request.pageSize);
  const order = parseOrderBy(request.orderBy);
  const namespace = kinds[kind].scope === 'namespace' ? request.namespace : '';
  const bayUid = bay?.uid ?? '';
  const query = {
    kind,
    project: principal.project,
    bayUid,
    namespace,
    filter: request.filter,
    orderBy: request.orderBy,
  };
  const cursor = decodePageToken(query, request.pageToken);
  const filter = compileFilter(kind, request.filter);
  const matches = filter && budgeted(filter);

  const objects: Kinds[K][] = [];
  let after = cursor?.after as StoredObject | undefined;
  let revision = cursor?.revision;
  const slices = new Slices();
  let bytes = 0;
  for (;;) {
    const page = await store.list({
      kind,
      project: projectOf(principal),
      bayUid: bay?.uid,
      namespace: namespace || undefined,
      ...order,
      after,
      limit: filter ? maxPageSize : pageSize,
    });
    revision ??= page.revision;
    for (const [i, stored] of page.objects.entries()) {
      const object = present(kind, stored, around);
      after = stored;
      if (!matches || matches(object)) {
        objects.push(object);
        bytes += stored.body.byteLength;
      }
      if (objects.length === pageSize || bytes >= maxPageBytes) {
        const more = page.more || i < page.objects.length - 1;
        return {
          objects,
          nextPageToken: more ? encodePageToken(query, { after, revision }) : '',
          revision: BigInt(revision),
        };
      }
      if (slices.isOver) await slices.next();
    }
    if (!page.more || page.objects.length === 0) return { objects, nextPageToken: '', revision: BigInt(revision) };
  }
}
