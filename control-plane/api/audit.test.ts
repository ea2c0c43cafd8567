import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code, createClient } from '@connectrpc/connect';
import test from 'ava';
import { AuditEffectState, AuditService } from '../../proto/gen/baykeeper/v1/audit_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { startApi } from '../../test/harness/api_fixture.ts';
import { refused } from '../../test/harness/refused.ts';
import { type AuditEntry, nobody } from '../audit/port.ts';

const entry = (subject: string): AuditEntry => ({ ...nobody, kind: 'change', method: 'a/B', code: 'ok', subject });

test('a log is followed from any record on, however long ago, and by a caller that reads slowly', async (t) => {
  await using api = await startApi();
  const append = (count: number, subject: string) =>
    Promise.all(Array.from({ length: count }, () => api.audit.append(entry(subject))));
  await append(1, 'rose');
  await append(12_000, 'bert');
  await append(1, 'rose');
  const client = createClient(AuditService, api.transport({ token: 'admin-token' }));
  const abort = new AbortController();
  const follow = (subject: string) =>
    client
      .followAuditRecords({ filter: { subject }, afterSequence: 1n }, { signal: abort.signal })
      [Symbol.asyncIterator]();
  const rose = follow('rose');
  const next = async (of: typeof rose) => Number((await of.next()).value?.record?.sequence);
  t.is(await next(rose), 12_002);
  const all = follow('');
  t.is(await next(all), 2);
  // More than waits for anybody.
  await append(12_000, 'bert');
  await append(1, 'rose');
  t.is(await next(rose), 24_003);
  for (let sequence = 3; sequence <= 24_003; sequence += 1) {
    if ((await next(all)) !== sequence) t.fail(`${sequence} was left out`);
  }
  await append(1, 'rose');
  t.is(await next(rose), 24_004);
  t.is(await next(all), 24_004);
  abort.abort();
});

test('a log is held against its chain for as long as that takes', async (t) => {
  await using api = await startApi({ api: { unaryTimeoutMs: 20 } });
  const { verify, read } = api.audit;
  const { promise: mayEnd, resolve: end } = Promise.withResolvers<void>();
  api.audit.verify = async (expected) => {
    await mayEnd;
    return await verify.call(api.audit, expected);
  };
  api.audit.read = async function* (before) {
    await mayEnd;
    yield* read.call(api.audit, before);
  };
  const client = createClient(AuditService, api.transport({ token: 'admin-token' }));
  const found = client.verifyAudit({});
  await refused(t, client.listAuditRecords({}), Code.DeadlineExceeded);
  end();
  t.true((await found).intact);
});

test('a clock that was wrong for a while hides nothing of what came before', async (t) => {
  await using api = await startApi();
  const client = createClient(AuditService, api.transport({ token: 'admin-token' }));
  await api.audit.append(entry('before'));
  // As of a machine that has no clock of its own, until it was told the time.
  api.clock.offsetMs = -Date.now();
  await api.audit.append(entry('in 1970'));
  api.clock.offsetMs = 0;
  await api.audit.append(entry('after'));
  const filter = { sinceTime: timestampFromMs(Date.now() - 3_600_000) };
  const { records } = await client.listAuditRecords({ filter });
  t.deepEqual(
    records.map(({ subject }) => subject),
    ['after', 'before'],
  );
});

test('what agents have done is joined to the newest records, too, where older ones are left out', async (t) => {
  await using api = await startApi();
  const client = createClient(AuditService, api.transport({ token: 'admin-token' }));
  api.clock.offsetMs = -7_200_000;
  await Promise.all(Array.from({ length: 10_001 }, () => api.audit.append(entry('bert'))));
  api.clock.offsetMs = 0;
  await createClient(BayService, api.transport()).createBay({ bay: { metadata: { name: 'edge' } } });
  const filter = { sinceTime: timestampFromMs(Date.now() - 3_600_000) };
  const { records, nextPageToken } = await client.listAuditRecords({ filter, effects: true });
  t.deepEqual(
    records.map(({ objects }) => objects[0]?.effect?.state),
    [AuditEffectState.NONE],
  );
  t.is(nextPageToken, '');
});
