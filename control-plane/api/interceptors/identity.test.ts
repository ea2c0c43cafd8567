import { Code, createClient } from '@connectrpc/connect';
import test from 'ava';
import { SystemService } from '../../../proto/gen/baykeeper/v1/system_service_pb.js';
import { startApi } from '../../../test/harness/api_fixture.ts';
import { refused } from '../../../test/harness/refused.ts';
import { until } from '../../../test/harness/until.ts';
import { DeniedError } from '../../domain/errors.ts';

test('who is known and has no rights here is recorded by name, and may ask no more often than strangers', async (t) => {
  const authenticator = {
    authenticate: ({ token }: { token: string }) => {
      if (token !== 'oscars') return undefined;
      throw new DeniedError('oscar has no role here', { subject: 'oscar' });
    },
  };
  await using api = await startApi({ api: { authenticator, peerLimit: { perSecond: 0.001, burst: 3 } } });
  const { whoAmI } = createClient(SystemService, api.transport({ token: 'oscars' }));
  for (let i = 0; i < 3; i += 1) await refused(t, whoAmI({}), Code.PermissionDenied, /oscar has no role here/);
  for (let i = 0; i < 3; i += 1) await refused(t, whoAmI({}), Code.ResourceExhausted, /too many calls/);
  const recorded = await until('they are recorded', async () => {
    const records: string[] = [];
    for await (const { kind, code, subject } of api.audit.read(undefined)) {
      if (kind === 'refused') records.unshift(`${code} ${subject}`);
    }
    return records.length === 6 && records;
  });
  t.deepEqual(recorded, [
    ...['permission_denied oscar', 'permission_denied oscar', 'permission_denied oscar'],
    ...['resource_exhausted ', 'resource_exhausted ', 'resource_exhausted '],
  ]);
});
