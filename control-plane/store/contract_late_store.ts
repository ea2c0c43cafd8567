import { ChangeFeed } from './feed.ts';
import type { Change, Store } from './port.ts';

/**
 * The same store, but that its listeners and its revision lag behind its reads, as they do for a moment after each commit, and for
 * longer when another process has made it.
 */
export const lateStore = (store: Store, lateMs: number): Store => {
  const feed = new ChangeFeed((error) => {
    throw error;
  });
  let { revision } = store;
  store.subscribe((changes: readonly Change[]) => {
    setTimeout(() => {
      revision = changes.at(-1)?.revision ?? revision;
      feed.publish(changes);
    }, lateMs);
  });
  return new Proxy(store, {
    get: (target, property) => {
      if (property === 'revision') return revision;
      if (property === 'subscribe') return feed.subscribe.bind(feed);
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
};
