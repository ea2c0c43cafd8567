import { Code, ConnectError, createClient, type Interceptor, type Transport } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import test from 'ava';
import { Role } from '../../proto/gen/baykeeper/v1/access_token_pb.js';
import { AccessTokenService } from '../../proto/gen/baykeeper/v1/access_token_service_pb.js';
import { AuditService } from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { startControlPlane } from '../harness/control_plane.ts';
import { startSite } from '../harness/site.ts';

/** Over HTTP/2, which a command in a container needs. */
function transportOf(baseUrl: string, token: string): Transport {
  const identify: Interceptor = (next) => (request) => {
    request.header.set('authorization', `Bearer ${token}`);
    return next(request);
  };
  return createConnectTransport({ baseUrl, httpVersion: '2', interceptors: [identify] });
}

test('a token that is revoked lets nobody in at once, and its open streams end', async (t) => {
  await using plane = await startControlPlane();
  const tokens = plane.client(AccessTokenService);
  const made = await tokens.createAccessToken({ role: Role.READER });
  const transport = transportOf(plane.url, made.token);
  const bays = createClient(BayService, transport);
  const events = bays.watchBays({})[Symbol.asyncIterator]();
  t.false((await events.next()).done);
  const next = events.next();

  await tokens.revokeAccessToken({ id: made.accessToken?.id });
  const refused = ConnectError.from(await t.throwsAsync(bays.listBays({})));
  t.is(refused.code, Code.Unauthenticated);
  const ended = ConnectError.from(await t.throwsAsync(next));
  t.is(ended.code, Code.Unauthenticated);
});

test('a node that is revoked takes the streams through it along at once, and it is recorded which, and whose', async (t) => {
  await using site = await startSite();
  const { url, token } = site.controlPlane;
  const containers = createClient(ContainerService, transportOf(url, token));
  await containers.createContainer({
    container: {
      metadata: { bay: 'local', name: 'web' },
      spec: { image: site.image, args: ['sh', '-c', 'echo up; sleep 10000'] },
    },
  });
  await site.inPhase('web', ContainerPhase.RUNNING);
  const logs = containers.logs({ bay: 'local', name: 'web', follow: true })[Symbol.asyncIterator]();
  t.false((await logs.next()).done);
  const typed = Promise.withResolvers<void>();
  const command = containers
    .execute(
      (async function* () {
        yield {
          input: {
            case: 'start' as const,
            value: { bay: 'local', name: 'web', command: ['sh', '-c', 'echo in; sleep 10000'] },
          },
        };
        await typed.promise;
      })(),
    )
    [Symbol.asyncIterator]();
  t.false((await command.next()).done);
  const open = [logs.next(), command.next()];

  await site.controlPlane.client(NodeService).revokeNode({ bay: 'local', name: 'node-1' });
  for (const next of open) {
    const error = ConnectError.from(await t.throwsAsync(next));
    t.is(error.code, Code.Unavailable);
    t.is(error.rawMessage, 'node "node-1" was cut off');
  }
  typed.resolve();

  const audit = site.controlPlane.client(AuditService);
  const { records } = await audit.listAuditRecords({ filter: { kind: 'system' } });
  const ended = records.filter(({ code }) => code === 'stream_ended');
  t.deepEqual(
    ended.map(({ method, subject, objects }) => [method.split('/').at(-1), subject, objects[0]?.name]).sort(),
    [
      ['Execute', 'admin', 'web'],
      ['Logs', 'admin', 'web'],
    ],
  );
  const begun = (await audit.listAuditRecords({ filter: { method: 'Execute', kind: 'change' } })).records[0];
  t.true(
    ended.some(({ requestId }) => requestId === begun?.requestId),
    'the command that was begun is told by its request id',
  );
  const [cut] = records.filter(({ code }) => code === 'cut_off');
  t.like(cut?.objects[0], { kind: 'Node', bay: 'local', name: 'node-1' });
  t.regex(cut?.message ?? '', /the broker has closed 1 connection, and 2 open streams through it ended/);
});
