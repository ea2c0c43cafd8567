import { create } from '@bufbuild/protobuf';
import test from 'ava';
import { ContainerPhase, PowerState, PullPolicy } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ExecuteStartSchema, LogsRequestSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { bench, running, sink, until } from '../../test/harness/containers_bed.ts';
import { StreamError } from '../ports.ts';

test('logs and commands', async (t) => {
  const b = await bench(t);
  b.desired.put('web', { command: ['echo', 'hello'] });
  await until(t, 'running', () => running(b, 'web'));
  const logs = sink();
  await b.workloads.openLogs('web', create(LogsRequestSchema), logs);
  await until(t, 'end', () => logs.result.end !== undefined);
  t.is(logs.result.out, 'hello\n');
  const exec = sink();
  const stream = await b.workloads.openExecute(
    'web',
    create(ExecuteStartSchema, { command: ['cat'], stdin: true }),
    exec,
  );
  await stream.write(Buffer.from('in and out'));
  stream.endInput();
  await until(t, 'end', () => exec.result.end !== undefined);
  t.deepEqual(exec.result, { out: 'in and out', end: { exitCode: 0 } });
  stream.close();
  stream.close();

  const kind = async (call: Promise<unknown>) => (await t.throwsAsync(call, { instanceOf: StreamError })).kind;
  const start = create(ExecuteStartSchema, { command: ['true'] });
  t.is(await kind(b.workloads.openExecute('nobody', start, sink())), 'not-found');
  b.desired.put('bad', { image: 'none:1', pullPolicy: PullPolicy.NEVER });
  await until(t, 'failed', () => b.status('bad')?.phase === ContainerPhase.FAILED);
  t.is(await kind(b.workloads.openLogs('bad', create(LogsRequestSchema), sink())), 'not-running');
  b.desired.put('web', { command: ['echo', 'hello'], powerState: PowerState.STOPPED }, 2n);
  await until(t, 'stopped', () => b.status('web')?.phase === ContainerPhase.STOPPED);
  t.is(await kind(b.workloads.openExecute('web', start, sink())), 'not-running');
  t.is(await kind(b.workloads.openExecute('web', create(ExecuteStartSchema), sink())), 'invalid');
});
