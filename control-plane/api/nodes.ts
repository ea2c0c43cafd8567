import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import type { NodeService, RevokeNodeRequest } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import type { Access } from '../broker/port.ts';
import { UnimplementedError } from '../domain/errors.ts';
import { principalOf } from './call.ts';
import { refOf } from './kind_services.ts';
import type { Objects } from './objects.ts';

/** CreateNode says how nodes come to be. */
export function refuseCreateNode(): never {
  throw new UnimplementedError(
    'nodes are not created: a machine becomes one when its agent enrols. `bayctl bay join-command BAY` prints what to run on it',
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
      const node = await options.objects.change(principal, 'Node', refOf(request), '', (spec) => {
        spec.revoked = true;
      });
      if (node.spec?.publicKey) await options.access.revoke([node.spec.publicKey]);
      return { node };
    },
  };
}
