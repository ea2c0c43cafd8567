import type { StoredObject, Usage } from './port.ts';

/** How many objects of each kind each project has, and how large they all are. Flat: most changes touch one or two numbers of it. */
export type UsageNumbers = ReadonlyMap<string, number>;

/** Key of the count of a kind in a project. */
export const countKey = ({ project, kind }: Pick<StoredObject, 'project' | 'kind'>): string => `${project}\0${kind}`;
/** Key of the bytes of a project. No kind is empty. */
export const bytesKey = ({ project }: Pick<StoredObject, 'project'>): string => `${project}\0`;

/** What these numbers say of a project. */
export const usageOf = (project: string, numberAt: (key: string) => number | undefined): Usage => ({
  count: (kind) => numberAt(countKey({ project, kind })) ?? 0,
  get bytes() {
    return numberAt(bytesKey({ project })) ?? 0;
  },
});

/** Takes over what a commit has made of numbers; those that have come to nothing are forgotten. */
export function updateUsage(numbers: Map<string, number>, changed: UsageNumbers): void {
  for (const [key, value] of changed) {
    if (value === 0) numbers.delete(key);
    else numbers.set(key, value);
  }
}
