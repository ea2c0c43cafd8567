import type { EngineEvent, EngineSummary } from '../drivers/driver.ts';

/** How our containers are told from everybody else's on an engine: by labels, and never by name. */
export const label = {
  bay: 'io.baykeeper.bay',
  node: 'io.baykeeper.node',
  uid: 'io.baykeeper.uid',
  namespace: 'io.baykeeper.namespace',
  name: 'io.baykeeper.name',
  /** Hash of the fields that need a new container. */
  spec: 'io.baykeeper.spec',
  /** Of the spec that it was made from. */
  generation: 'io.baykeeper.generation',
  /** The reboots that were asked for before it was made. */
  reboots: 'io.baykeeper.reboots',
} as const;

/** Whose containers an agent has to do with: those that bear both uids. */
export interface Owner {
  readonly bayUid: string;
  readonly nodeUid: string;
}

/** What every container of an owner bears. */
export const ownerLabels = (owner: Owner): Record<string, string> => ({
  [label.bay]: owner.bayUid,
  [label.node]: owner.nodeUid,
});

/** The uid of the object that a container is of; undefined when it is not this owner's. */
export function ownedUid(owner: Owner, container: Pick<EngineSummary | EngineEvent, 'labels'>): string | undefined {
  const { labels } = container;
  if (labels[label.bay] !== owner.bayUid || labels[label.node] !== owner.nodeUid) return undefined;
  return labels[label.uid] || undefined;
}

/**
 * The name of an object's container on the engine: the object's own in the namespace `default`, `NAMESPACE_NAME` in others. No name of an
 * object has a `_` in it, so no two objects share one. The engine has no names of one letter: those bear their namespace always.
 */
export function engineName(namespace: string, name: string): string {
  const inDefault = namespace === '' || namespace === 'default';
  return inDefault && name.length > 1 ? name : `${inDefault ? 'default' : namespace}_${name}`;
}

/** The name that a replacement has until the one before it is gone. */
export const temporaryName = (namespace: string, name: string): string => `${engineName(namespace, name)}__next`;
