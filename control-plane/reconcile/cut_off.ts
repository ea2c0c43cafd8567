import { type AuditLog, nobody, noObject, streamsEnded } from '../audit/port.ts';
import type { Access } from '../broker/port.ts';
import type { Connections } from './connections.ts';
import type { Inventory, InventoryNode } from './inventory.ts';
import type { StreamRelay } from './stream_relay.ts';

/** Options of {@link endingStreams}. */
export interface CutOffOptions {
  readonly access: Access;
  readonly inventory: Pick<Inventory, 'node' | 'nodeOfKey'>;
  readonly streams: Pick<StreamRelay, 'end'>;
  readonly connections: Pick<Connections, 'count'>;
  readonly audit: Pick<AuditLog, 'note'>;
}

/** Access whose revocations also end what is open through the agents that they cut off, and record what that was. */
export function endingStreams({ access, inventory, streams, connections, audit }: CutOffOptions): Access {
  const endStreams = ({ uid, name }: InventoryNode): number => {
    const reason = `node "${name}" was cut off`;
    const ended = streams.end(uid, () => reason);
    for (const entry of streamsEnded(ended, reason)) audit.note(entry);
    return ended.length;
  };
  return {
    urls: access.urls,
    issue: (agent) => access.issue(agent),
    onConnection: (listener) => access.onConnection(listener),
    revoke: async (publicKeys) => {
      const nodes = publicKeys.flatMap((key) => inventory.node(inventory.nodeOfKey(key) ?? '') ?? []);
      // At once, whether the broker can be told or not; and again for those that were opened until it was.
      const found = nodes.map((node) => {
        const count = connections.count(node.uid) ?? 0;
        return { node, connected: `${count} ${count === 1 ? 'connection' : 'connections'}`, ended: endStreams(node) };
      });
      let isTold = false;
      try {
        await access.revoke(publicKeys);
        isTold = true;
      } finally {
        for (const { node, connected, ended } of found) {
          const { project, bay, name, uid } = node;
          const count = ended + endStreams(node);
          // It is tried again and again: only what was done is recorded.
          if (!isTold && count === 0) continue;
          const broker = isTold ? `the broker has closed ${connected}` : 'the broker could not be told yet';
          const message = `its agent was cut off: ${broker}, and ${count} open ${count === 1 ? 'stream' : 'streams'} through it ended`;
          const object = { ...noObject, kind: 'Node', bay, name, uid };
          audit.note({ ...nobody, kind: 'system', method: '', code: 'cut_off', project, objects: [object], message });
        }
      }
    },
  };
}
