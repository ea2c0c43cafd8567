import { Code, ConnectError, createClient, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import test from 'ava';
import { Role } from '../../proto/gen/baykeeper/v1/access_token_pb.js';
import { AccessTokenService } from '../../proto/gen/baykeeper/v1/access_token_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { startControlPlane } from '../harness/control_plane.ts';

test('a token that is revoked lets nobody in at once, and its open streams end within five seconds', async (t) => {
  await using plane = await startControlPlane();
  const tokens = plane.client(AccessTokenService);
  const made = await tokens.createAccessToken({ role: Role.READER });
  const identify: Interceptor = (next) => (request) => {
    request.header.set('authorization', `Bearer ${made.token}`);
    return next(request);
  };
  const transport = createConnectTransport({ baseUrl: plane.url, httpVersion: '2', interceptors: [identify] });
  const bays = createClient(BayService, transport);
  const events = bays.watchBays({})[Symbol.asyncIterator]();
  t.false((await events.next()).done);
  const next = events.next();

  await tokens.revokeAccessToken({ id: made.accessToken?.id });
  const revokedMs = performance.now();
  const refused = ConnectError.from(await t.throwsAsync(bays.listBays({})));
  t.is(refused.code, Code.Unauthenticated);
  const ended = ConnectError.from(await t.throwsAsync(next));
  t.is(ended.code, Code.Unauthenticated);
  t.true(performance.now() - revokedMs < 5_000);
});
