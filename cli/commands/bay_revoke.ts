import type { Command } from 'commander';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import type { Node } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { kindRow } from '../kinds.ts';
import { type Environment, examples, withGlobals } from '../session.ts';
import { listTokens, revokeEach, stateOf } from './join_token.ts';

/** `bayctl bay revoke`. */
export function registerBayRevoke(parent: Command, environment: Environment): void {
  const command = parent
    .command('revoke')
    .description(
      "end the trust in all of a bay's agents, at once and for ever, and take back its join tokens; what runs there goes on, out of sight",
    )
    .argument('<name>', 'the bay')
    .action(async (bay: string, _flags: unknown, self: Command) => {
      const session = await environment.open(self);
      await session.api.unary(BayService.method.getBay, { name: bay });
      // The tokens first: nobody comes in anew meanwhile. The nodes whatever becomes of that.
      let count = 0;
      try {
        const tokens = await listTokens(session, bay);
        const good = tokens.filter((one) => stateOf(one, session.io.nowMs()) === 'READY').map(({ id }) => id);
        count += good.length;
        await revokeEach(session, 'token', good, (_, id) =>
          session.api.unary(JoinTokenService.method.revokeJoinToken, { id }),
        );
      } finally {
        const { objects } = await session.objects.list(kindRow('Node'), { ...session.place, bay });
        const names = (objects as Node[])
          .filter(({ spec }) => spec?.publicKey && !spec.revoked)
          .map(({ metadata }) => metadata?.name ?? '');
        count += names.length;
        await revokeEach(session, 'node', names, (_, name) =>
          session.api.unary(NodeService.method.revokeNode, { bay, name }),
        );
      }
      if (count === 0) await session.err('It has no agent that is trusted, and no join token.\n');
    });
  examples(withGlobals(command), 'bayctl bay revoke edge-1');
}
