import type { Change, ChangeFilter } from './port.ts';

type Listener = (changes: readonly Change[]) => void;

/** Whether a change is one of those. */
export const matches = (filter: ChangeFilter, { object }: Change): boolean =>
  object.kind === filter.kind &&
  (filter.project === undefined || object.project === filter.project) &&
  (filter.bayUid === undefined || object.bayUid === filter.bayUid);

// Undefined must not look like the empty bay of a kind that has none.
const wildcard = '\0';
const groupText = (kind: string, project = wildcard, bayUid = wildcard): string => `${kind}\n${project}\n${bayUid}`;

/**
 * Who listens to the changes of a store. Listeners with the same filter are one group, so that a change costs what the groups that it
 * concerns cost, however many others listen.
 */
export class ChangeFeed {
  readonly #onError: (error: unknown) => void;
  readonly #all = new Set<Listener>();
  readonly #groups = new Map<string, Set<Listener>>();

  /** `onError` hears of a listener that threw, against its promise: the others get their changes all the same. */
  constructor(onError: (error: unknown) => void) {
    this.#onError = onError;
  }

  subscribe(listener: Listener, only?: ChangeFilter): () => void {
    // The same function may be subscribed twice: each subscription ends alone.
    const entry: Listener = (changes) => listener(changes);
    if (!only) {
      this.#all.add(entry);
      return () => this.#all.delete(entry);
    }
    const key = groupText(only.kind, only.project, only.bayUid);
    const group = this.#groups.get(key) ?? new Set();
    this.#groups.set(key, group.add(entry));
    return () => {
      group.delete(entry);
      if (group.size === 0 && this.#groups.get(key) === group) this.#groups.delete(key);
    };
  }

  /** Gives the changes of one commit to those whom they concern. */
  publish(changes: readonly Change[]): void {
    if (changes.length === 0) return;
    this.#call(this.#all, changes);
    if (this.#groups.size === 0) return;
    const concerned = new Map<Set<Listener>, Change[]>();
    for (const change of changes) {
      const { kind, project, bayUid } = change.object;
      for (const key of [
        groupText(kind, project, bayUid),
        groupText(kind, project),
        groupText(kind, undefined, bayUid),
        groupText(kind),
      ]) {
        const group = this.#groups.get(key);
        if (!group) continue;
        const theirs = concerned.get(group);
        if (theirs) theirs.push(change);
        else concerned.set(group, [change]);
      }
    }
    for (const [group, theirs] of concerned) this.#call(group, theirs);
  }

  #call(listeners: Set<Listener>, changes: readonly Change[]): void {
    // A copy: a listener may end a subscription, or begin another, while it is called.
    for (const listener of [...listeners]) {
      if (!listeners.has(listener)) continue;
      try {
        listener(changes);
      } catch (error) {
        this.#onError(error);
      }
    }
  }
}
