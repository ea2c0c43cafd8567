import { randomBytes, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { SetDigest } from '../../proto/digest.ts';
import {
  AssignSchema,
  HelloReplySchema,
  HelloSchema,
  SignedSchema,
  SyncRequestSchema,
} from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { CredentialsSchema } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { downSubject, upSubject } from '../../proto/subjects.ts';
import { startAgent } from '../harness/agent.ts';
import { connectBusInsider } from '../harness/bus_insider.ts';
import { startControlPlane } from '../harness/control_plane.ts';
import { startDockerd } from '../harness/dockerd.ts';
import { until } from '../harness/until.ts';
import { cpuSeconds, ms, percentile, type Row, residentMb } from './measure.ts';

/** From the control plane's commit to the message in the hands of a client of the broker; and what an idle agent costs. */
export async function delivery(): Promise<Row[]> {
  await using dockerd = await startDockerd();
  await using controlPlane = await startControlPlane({ args: ['--log-level', 'warn'] });
  await controlPlane.createBay('bench');
  await using agent = await startAgent({
    controlPlane,
    bay: 'bench',
    name: 'node-1',
    dockerSocket: dockerd.socketPath,
    // It is asked at another address than the one where the agent enrolled, so it is asked at once; else that would come within ten minutes.
    env: { BAYKEEPER_AGENT_SERVER: controlPlane.url.replace('127.0.0.1', 'localhost') },
  });
  await until('it has asked the API', () => agent.program.output.includes('asked the control plane'));
  const rows: Row[] = [];

  const cpuBefore = await cpuSeconds(agent.program.pid);
  const idleSeconds = 30;
  await new Promise((resolve) => setTimeout(resolve, idleSeconds * 1000));
  const used = (await cpuSeconds(agent.program.pid)) - cpuBefore;
  rows.push({
    what: 'memory of an idle agent, which has asked the API',
    measured: `${Math.round(await residentMb(agent.program.pid))} MB`,
    target: '70 MB',
  });
  rows.push({
    what: `processor time of an idle agent over ${idleSeconds} s`,
    measured: `${((used / idleSeconds) * 100).toFixed(2)} % of a core`,
    target: '1 %',
  });

  // The receiver takes the agent's place on the bus, so that no engine's work is in the measurement.
  const credentials = fromBinary(CredentialsSchema, await credentialsOf(agent.dataDir));
  await agent.stop();
  const address = { bayUid: credentials.bayUid, nodeUid: credentials.nodeUid };
  const bus = await connectBusInsider(controlPlane, address.nodeUid);
  const receipts = new Map<string, number>();
  bus.subscribe(downSubject(address, 'assign'), {
    callback: (_error, message) => {
      const now = performance.timeOrigin + performance.now();
      const { body } = fromBinary(AssignSchema, fromBinary(SignedSchema, message.data).payload);
      if (body.case === 'delta') for (const { uid } of body.value.assignments) receipts.set(uid, now);
    },
  });
  const session = randomBytes(16);
  const hello = create(HelloSchema, { instanceId: randomUUID(), agentVersion: 'bench', session });
  const reply = await bus.request(upSubject(address, 'hello'), toBinary(HelloSchema, hello), { timeout: 10_000 });
  const { epoch } = fromBinary(HelloReplySchema, fromBinary(SignedSchema, reply.data).payload);
  const sync = create(SyncRequestSchema, { epoch, session, nonce: randomBytes(16), digest: new SetDigest().bytes() });
  await bus.request(upSubject(address, 'sync'), toBinary(SyncRequestSchema, sync), { timeout: 10_000 });

  const api = controlPlane.client(ContainerService);
  const latencies: number[] = [];
  for (let i = 0; i < 500; i += 1) {
    const called = performance.timeOrigin + performance.now();
    const { container } = await api.createContainer({
      container: { metadata: { bay: 'bench', name: `c-${i}` }, spec: { image: 'busybox' } },
    });
    const uid = container?.metadata?.uid ?? '';
    while (!receipts.has(uid)) await new Promise((resolve) => setImmediate(resolve));
    latencies.push((receipts.get(uid) ?? Number.NaN) - called);
  }
  await bus.close();
  latencies.sort((a, b) => a - b);
  rows.push({
    what: 'call of create to receipt by an idle agent: above commit to receipt by the create itself',
    measured: `median ${ms(percentile(latencies, 0.5))}, p99 ${ms(percentile(latencies, 0.99))}`,
    target: 'commit to receipt: median 3 ms, p99 15 ms',
  });
  return rows;
}

const credentialsOf = (dataDir: string) => readFile(path.join(dataDir, 'credentials.bin'));
