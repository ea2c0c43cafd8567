import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import type { Node } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { NodeService, RevokeNodeRequest } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import type { Access } from '../broker/port.ts';
import { PreconditionError, UnimplementedError } from '../domain/errors.ts';
import { principalOf } from './call.ts';
import { refOf } from './kind_services.ts';
import type { Objects } from './objects.ts';

/** CreateNode says how nodes come to be. */
export function refuseCreateNode(): never {
  throw new UnimplementedError(
    'nodes are not created: a machine becomes one when its agent enrols. `bayctl bay join-command BAY` prints what to run on it',
  );
}

/** A node that a cluster brought along is the cluster's to end. Throws PreconditionError. */
export function refuseReported({ metadata, status }: Node): void {
  if (!status?.reportedBy) return;
  throw new PreconditionError(
    `node "${metadata?.name}" belongs to the cluster of bay "${metadata?.bay}": it goes from here when it goes from there`,
  );
}

/** The method that only nodes have. */
export function nodeMethods(options: {
  readonly objects: Objects;
  readonly access: Access;
}): Pick<ServiceImpl<typeof NodeService>, 'revokeNode'> {
  return {
    async revokeNode(request: RevokeNodeRequest, context: HandlerContext) {
      const principal = principalOf(context);
      // On disk first: if the broker cannot be told now, the node is not let in anew meanwhile, and the call can be repeated.
      const node = await options.objects.change(principal, 'Node', refOf(request), '', (spec, node) => {
        refuseReported(node);
        spec.revoked = true;
      });
      if (node.spec?.publicKey) await options.access.revoke([node.spec.publicKey]);
      return { node };
    },
  };
}
