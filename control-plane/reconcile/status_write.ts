import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { type Node, NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { StoredObject, WriteView } from '../store/port.ts';

/**
 * Rewrites a node from what is known of its agent. `change` returns whether there is anything to write. A change of status moves neither
 * the generation nor the etag.
 */
export function writeNode(
  view: WriteView,
  stored: StoredObject,
  change: (node: Node) => boolean,
  row: Partial<Pick<StoredObject, 'epoch'>> = {},
): void {
  const node = fromBinary(NodeSchema, stored.body);
  if (!change(node)) return;
  view.put((revision) => {
    if (node.metadata) node.metadata.revision = BigInt(revision);
    return { ...stored, ...row, revision, body: toBinary(NodeSchema, node) };
  }, '');
}
