import { create } from '@bufbuild/protobuf';
import { type ResourceAmounts, ResourceAmountsSchema } from '../../proto/gen/baykeeper/v1/quota_pb.js';
import { ExhaustedError } from './errors.ts';
import { decodeOwn, encodeOwn } from './own_record.ts';
import type { StoredRecord } from './record.ts';

/** The store's kind of quotas: one of the control plane's own, not one of the seven. */
export const quotaKind = 'Quota';

/** What a project's share is counted in. */
export const resources = ['bays', 'nodes', 'pods', 'containers', 'objectBytes'] as const;
export type Resource = (typeof resources)[number];

/** An amount of each; what is not there is not limited, or not set. */
export type Amounts = Readonly<Partial<Record<Resource, number>>>;

/** In what was set: no limit, whatever the default is. */
export const noLimit = -1;

const kindOf: Readonly<Partial<Record<Resource, string>>> = {
  bays: 'Bay',
  nodes: 'Node',
  pods: 'Pod',
  containers: 'Container',
};

/** What a project has: of store/port.ts. */
interface Usage {
  count(kind: string): number;
  readonly bytes: number;
}

/** What a project uses of a resource. */
export function amountOf(usage: Usage, resource: Resource): number {
  const kind = kindOf[resource];
  return kind ? usage.count(kind) : usage.bytes;
}

/** What holds where this was set, over these defaults. */
export function limitsOf(set: Amounts, defaults: Amounts): Amounts {
  const limits: Partial<Record<Resource, number>> = {};
  for (const resource of resources) {
    const limit = set[resource] ?? defaults[resource];
    if (limit !== undefined && limit !== noLimit) limits[resource] = limit;
  }
  return limits;
}

/**
 * Throws ExhaustedError when a project has more than it may. `more`: what has been added to it just now; of the rest, what is there already stays, and hinders
 * nobody.
 */
export function checkQuota(
  project: string,
  limits: Amounts,
  usage: Usage,
  more: { readonly kind?: string; readonly bytes: number },
): void {
  for (const resource of resources) {
    const limit = limits[resource];
    if (limit === undefined) continue;
    const kind = kindOf[resource];
    const added = kind === undefined ? more.bytes : kind === more.kind ? 1 : 0;
    const amount = amountOf(usage, resource);
    if (added <= 0 || amount <= limit) continue;
    const what = resource === 'objectBytes' ? 'bytes of objects' : resource;
    throw new ExhaustedError(
      `project ${project} may have ${limit} ${what} and has ${amount - added}: ${added} more would be too many. ` +
        'Delete some, or have an admin raise the quota',
    );
  }
}

/** What was set for a project, as it is kept. */
export interface QuotaRecord {
  readonly project: string;
  readonly set: Amounts;
}

/** Where a project's quota is found. */
export const quotaKey = (project: string) => ({ kind: quotaKind, project, bayUid: '', namespace: '', name: 'quota' });

/** As it is stored. `createTimeMs`: now, unless it is there already. */
export const encodeQuota = (
  { project, set }: QuotaRecord,
  createTimeMs: number,
): ((revision: number) => StoredRecord) =>
  encodeOwn({ ...quotaKey(project), uid: `quota/${project}`, createTimeMs, value: { project, set } });

export const decodeQuota = (stored: StoredRecord): QuotaRecord =>
  decodeOwn<QuotaRecord>(stored, ({ project }) => project === stored.project);

/** As messages have it. */
export function amountsMessage(amounts: Amounts): ResourceAmounts {
  const message = create(ResourceAmountsSchema);
  for (const resource of resources) {
    const amount = amounts[resource];
    if (amount !== undefined) message[resource] = BigInt(amount);
  }
  return message;
}

/** The amounts of a message. */
export function amountsOf(message: ResourceAmounts | undefined): Amounts {
  const amounts: Partial<Record<Resource, number>> = {};
  for (const resource of resources) {
    const amount = message?.[resource];
    if (amount !== undefined) amounts[resource] = Number(amount);
  }
  return amounts;
}
