import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, type ConnectRouter } from '@connectrpc/connect';
import { JoinTokenService } from '../proto/gen/baykeeper/v1/join_token_service_pb.js';

/** Join tokens in memory. */
export function joinTokens(router: ConnectRouter, called: (method: string, input: unknown) => void): void {
  const tokens = new Map<string, { id: string; bay: string; maxUses: number; revoked: boolean }>();
  router.service(JoinTokenService, {
    createJoinToken(request) {
      called('createJoinToken', request);
      const id = `tok${tokens.size}`;
      tokens.set(id, { id, bay: request.bay, maxUses: request.maxUses || 1, revoked: false });
      return { joinToken: { id }, token: `${id}.secret`, joinCommand: `baykeeper-agent join --token ${id}.secret` };
    },
    listJoinTokens: () => ({
      joinTokens: [...tokens.values()].map(({ revoked, ...token }) => ({
        ...token,
        expireTime: timestampFromMs(Date.now() + 3_600_000),
        ...(revoked ? { revokeTime: timestampFromMs(Date.now()) } : {}),
      })),
    }),
    revokeJoinToken(request) {
      called('revokeJoinToken', request);
      const { id } = request;
      const token = tokens.get(id);
      if (!token) throw new ConnectError(`there is no join token "${id}"`, Code.NotFound);
      token.revoked = true;
      return {};
    },
  });
}
