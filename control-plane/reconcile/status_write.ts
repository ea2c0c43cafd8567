import type { Node } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { decode, encode } from '../domain/record.ts';
import type { StoredObject, WriteView } from '../store/port.ts';

/**
 * Rewrites a node from what is known of its agent. `change` returns whether there is anything to write. A change of status moves neither
 * the generation nor the etag.
 */
export function writeNode(view: WriteView, stored: StoredObject, change: (node: Node) => boolean): void {
  const node = decode('Node', stored);
  if (!change(node)) return;
  view.put(encode('Node', node, stored), '');
}
