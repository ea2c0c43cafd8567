import { create } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { type Quota, QuotaSchema } from '../../proto/gen/baykeeper/v1/quota_pb.js';
import type { QuotaService } from '../../proto/gen/baykeeper/v1/quota_service_pb.js';
import { InvalidError } from '../domain/errors.ts';
import { projectHeader } from '../domain/principal.ts';
import {
  type Amounts,
  amountOf,
  amountsMessage,
  amountsOf,
  checkQuota,
  decodeQuota,
  encodeQuota,
  limitsOf,
  quotaKey,
  quotaKind,
  resources,
} from '../domain/quota.ts';
import type { Store, StoredObject, Usage, WriteView } from '../store/port.ts';
import { principalOf } from './call.ts';

/** Options of {@link Quotas}. */
export interface QuotasOptions {
  readonly store: Store;
  /** What holds for projects for which nothing else was set. */
  readonly defaults: Amounts;
}

const pageSize = 500;

/** What was set for each project, kept in memory from the change feed: every write asks. */
export class Quotas {
  readonly #options: QuotasOptions;
  readonly #set = new Map<string, Amounts>();
  #end: () => void = () => undefined;

  private constructor(options: QuotasOptions) {
    this.#options = options;
  }

  /** Reads what is there, and follows the feed from then on. */
  static async open(options: QuotasOptions): Promise<Quotas> {
    const quotas = new Quotas(options);
    const heard = new Set<string>();
    quotas.#end = options.store.subscribe(
      (changes) => {
        for (const { object } of changes) {
          heard.add(object.project);
          quotas.#set.set(object.project, decodeQuota(object).set);
        }
      },
      { kind: quotaKind },
    );
    let after: StoredObject | undefined;
    for (;;) {
      const query = { kind: quotaKind, orderBy: 'name', descending: false, after, limit: pageSize } as const;
      const page = await options.store.list(query);
      for (const stored of page.objects) {
        // The feed may have said something newer meanwhile.
        if (!heard.has(stored.project)) quotas.#set.set(stored.project, decodeQuota(stored).set);
      }
      after = page.objects.at(-1);
      if (!page.more || !after) return quotas;
    }
  }

  close(): void {
    this.#end();
  }

  /** Within a write that has made an object: that its project may have it. Throws ExhaustedError. */
  checkNew(view: Pick<WriteView, 'usage'>, { project, kind, body }: StoredObject): void {
    checkQuota(project, this.#limits(project), view.usage(project), { kind, bytes: body.byteLength });
  }

  /** Within a write that has changed an object: that its project may have it so large. Throws ExhaustedError. */
  checkChanged(view: Pick<WriteView, 'usage'>, before: StoredObject, { project, body }: StoredObject): void {
    const bytes = body.byteLength - before.body.byteLength;
    checkQuota(project, this.#limits(project), view.usage(project), { bytes });
  }

  /** That a project which has so much may have this as well: one more of a kind, where it is new. Throws ExhaustedError. */
  checkRoom(project: string, usage: Usage, more: { readonly kind?: string; readonly bytes: number }): void {
    const count = (kind: string): number => usage.count(kind) + (kind === more.kind ? 1 : 0);
    checkQuota(project, this.#limits(project), { count, bytes: usage.bytes + more.bytes }, more);
  }

  /** What was set, what holds and what is used. */
  quotaOf(project: string): Quota {
    const usage = this.#options.store.usage(project);
    const use = Object.fromEntries(resources.map((resource) => [resource, amountOf(usage, resource)]));
    return create(QuotaSchema, {
      project,
      set: amountsMessage(this.#set.get(project) ?? {}),
      limits: amountsMessage(this.#limits(project)),
      use: amountsMessage(use),
    });
  }

  /** Every project that has anything, or something set for it. */
  projects(): readonly string[] {
    return [...new Set([...this.#options.store.projects(), ...this.#set.keys()])].filter(Boolean).sort();
  }

  #limits(project: string): Amounts {
    return limitsOf(this.#set.get(project) ?? {}, this.#options.defaults);
  }
}

/** Shows and sets quotas. */
export function quotaMethods(options: {
  readonly store: Store;
  readonly quotas: Quotas;
  readonly clock: { now(): number };
}): ServiceImpl<typeof QuotaService> {
  const { store, quotas, clock } = options;
  return {
    getQuota(_request, context) {
      const { project, everyProject } = principalOf(context);
      if (everyProject) throw new InvalidError(projectHeader, 'names one project here: ListQuotas has those of all');
      return { quota: quotas.quotaOf(project) };
    },

    listQuotas: () => ({ quotas: quotas.projects().map((project) => quotas.quotaOf(project)) }),

    async setQuota(request, context) {
      const { project } = principalOf(context);
      const key = quotaKey(project);
      await store.write({
        reads: [key],
        apply: (view) => {
          const stored = view.get(key);
          const before = stored && !request.reset ? decodeQuota(stored).set : {};
          const set = { ...before, ...amountsOf(request.set) };
          view.put(encodeQuota({ project, set }, stored?.createTimeMs ?? clock.now()), '');
        },
      });
      return { quota: quotas.quotaOf(project) };
    },
  };
}
