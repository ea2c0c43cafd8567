import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import {
  ContainerService,
  CreateContainerRequestSchema,
  ListContainersRequestSchema,
} from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { ApplyRequestSchema, ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { type ControlPlane, startControlPlane } from '../harness/control_plane.ts';
import { h2load, loadRow, ms, type Row, residentMb } from './measure.ts';

/** A container as users write it. */
export const container = (name: string, bay = 'bench') => ({
  metadata: { bay, name, labels: { tier: 'bench' } },
  spec: {
    image: 'registry.example/team/app:1.2.3',
    args: ['serve', '--port', '8080'],
    env: [
      { name: 'LOG_LEVEL', value: 'info' },
      { name: 'REGION', value: 'north' },
    ],
    ports: [{ containerPort: 8080 }],
  },
});

/** Durable single creates, through Connect and through gRPC: the same message, named by the control plane. */
export async function creates(): Promise<Row[]> {
  const rows: Row[] = [];
  const message = toBinary(
    CreateContainerRequestSchema,
    create(CreateContainerRequestSchema, { container: container('') }),
  );
  const framed = Buffer.concat([Buffer.alloc(5), message]);
  framed.writeUInt32BE(message.byteLength, 1);
  const protocols: { name: string; body: Uint8Array; headers: Record<string, string>; target: string }[] = [
    { name: 'Connect', body: message, headers: { 'content-type': 'application/proto' }, target: '3,000/s, p99 40 ms' },
    { name: 'gRPC', body: framed, headers: { 'content-type': 'application/grpc', te: 'trailers' }, target: '2,500/s' },
  ];
  for (const { name, body, headers, target } of protocols) {
    await using controlPlane = await startControlPlane({ args: ['--log-level', 'warn'] });
    await controlPlane.createBay('bench');
    const load = await h2load({
      url: `${controlPlane.url}/baykeeper.v1.ContainerService/CreateContainer`,
      body,
      headers: { ...headers, authorization: `Bearer ${controlPlane.token}` },
      callers: 32,
      seconds: 10,
    });
    rows.push(loadRow(`create a container, 32 callers, ${name}`, load, target));
    rows.push({
      what: '  memory of the control plane then',
      measured: `${Math.round(await residentMb(controlPlane.program.pid))} MB`,
      target: '',
    });
  }
  return rows;
}

/** Many manifests in one call; lists; and what the control plane weighs with them. */
export async function manifests(): Promise<Row[]> {
  await using controlPlane = await startControlPlane({ args: ['--log-level', 'warn'] });
  await controlPlane.createBay('bench');
  const api = controlPlane.client(ManifestService);
  const total = 10_000;
  const size = 1000;
  const chunk = (from: number, prefix: string) =>
    Array.from({ length: size }, (_, i) => ({
      object: { case: 'container' as const, value: container(`${prefix}-${String(from + i).padStart(6, '0')}`) },
    }));
  const froms = Array.from({ length: total / size }, (_, i) => i * size);
  const rows: Row[] = [];
  // The first 10,000 find a control plane that has just started; the next show what it does once it is warm.
  const rounds = [
    { what: 'all created, right after its start', prefix: 'warm', target: '10,000/s' },
    { what: 'all created', prefix: 'c', target: '10,000/s' },
    { what: 'all unchanged', prefix: 'c', target: '' },
  ];
  for (const { what, prefix, target } of rounds) {
    const started = performance.now();
    let next = 0;
    await Promise.all(
      [0, 1].map(async () => {
        for (let from = froms[next++]; from !== undefined; from = froms[next++]) {
          await api.apply({ manifests: chunk(from, prefix) });
        }
      }),
    );
    const seconds = (performance.now() - started) / 1000;
    rows.push({
      what: `apply ${total} containers, ${size} a call, 2 callers, ${what}`,
      measured: `${Math.round(total / seconds)}/s`,
      target,
    });
  }
  rows.push(
    await packedApply(
      controlPlane,
      froms.map((from) => ({ manifests: chunk(from, 'packed') })),
    ),
  );
  const containers = controlPlane.client(ContainerService);
  const tokens: string[] = [];
  const durations: number[] = [];
  for (let round = 0; round < 10; round += 1) {
    const started = performance.now();
    let pageToken = '';
    for (let count = 0; count < 6000; ) {
      if (round === 0) tokens.push(pageToken);
      const page = await containers.listContainers({ bay: 'bench', pageSize: 1000, pageToken });
      pageToken = page.nextPageToken;
      count += page.containers.length;
    }
    durations.push(performance.now() - started);
  }
  durations.sort((a, b) => a - b);
  rows.push({
    what: 'list 6,000 containers, 1,000 a page, by a Node.js client beside it',
    measured: `${ms(durations[5] ?? Number.NaN)} (median of 10)`,
    target: '150 ms',
  });
  rows.push(await packedList(controlPlane, tokens));
  const idle = await idleMb(controlPlane);
  rows.push({
    what: 'memory of an idle control plane with 30,000 objects',
    measured: `${Math.round(idle)} MB`,
    target: '200 MB with 10,000',
  });
  return rows;
}

/** A call whose message is packed already and whose answer is not unpacked: what is measured is the server, as h2load does. */
async function callPacked(controlPlane: ControlPlane, method: string, message: Uint8Array): Promise<void> {
  const response = await fetch(`${controlPlane.url}/baykeeper.v1.${method}`, {
    method: 'POST',
    headers: { 'content-type': 'application/proto', authorization: `Bearer ${controlPlane.token}` },
    body: Buffer.from(message),
  });
  await response.arrayBuffer();
  if (!response.ok) throw new Error(`${method} answered ${response.status}`);
}

async function packedApply(
  controlPlane: ControlPlane,
  requests: readonly MessageInitShape<typeof ApplyRequestSchema>[],
): Promise<Row> {
  const messages = requests.map((request) => toBinary(ApplyRequestSchema, create(ApplyRequestSchema, request)));
  const started = performance.now();
  let next = 0;
  await Promise.all(
    [0, 1, 2].map(async () => {
      for (let message = messages[next++]; message; message = messages[next++]) {
        await callPacked(controlPlane, 'ManifestService/Apply', message);
      }
    }),
  );
  const seconds = (performance.now() - started) / 1000;
  return {
    what: '  the same, all created, by 3 callers that neither pack nor unpack',
    measured: `${Math.round((messages.length * 1000) / seconds)}/s`,
    target: '10,000/s',
  };
}

async function packedList(controlPlane: ControlPlane, tokens: readonly string[]): Promise<Row> {
  const messages = tokens.map((pageToken) =>
    toBinary(
      ListContainersRequestSchema,
      create(ListContainersRequestSchema, { bay: 'bench', pageSize: 1000, pageToken }),
    ),
  );
  const durations: number[] = [];
  for (let round = 0; round < 10; round += 1) {
    const started = performance.now();
    for (const message of messages) await callPacked(controlPlane, 'ContainerService/ListContainers', message);
    durations.push(performance.now() - started);
  }
  durations.sort((a, b) => a - b);
  return {
    what: '  the same, by a caller that does not unpack',
    measured: `${ms(durations[5] ?? Number.NaN)} (median of 10)`,
    target: '150 ms',
  };
}

/** Resident memory ten seconds after a fresh start on the same data. */
async function idleMb(controlPlane: ControlPlane): Promise<number> {
  await controlPlane.stop();
  await controlPlane.start();
  await new Promise((resolve) => setTimeout(resolve, 10_000));
  return residentMb(controlPlane.program.pid);
}
