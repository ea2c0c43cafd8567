import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import net from 'node:net';
import test from 'ava';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { type ControlPlane, startControlPlane } from '../harness/control_plane.ts';
import { until } from '../harness/until.ts';

const residentMb = async (pid: number | undefined): Promise<number> =>
  Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024;

/** Asks for a watch over a plain socket, from which nothing is read until `resume`. */
async function watchUnread(controlPlane: ControlPlane): Promise<net.Socket> {
  const socket = net.connect(controlPlane.port, '127.0.0.1');
  socket.pause();
  await once(socket, 'connect');
  const request = Buffer.from('{"bay":"edge"}');
  const frame = Buffer.alloc(5);
  frame.writeUInt32BE(request.length, 1);
  socket.write(
    `POST /baykeeper.v1.ContainerService/WatchContainers HTTP/1.0\r\nhost: a\r\nauthorization: Bearer ${controlPlane.token}\r\n` +
      `content-type: application/connect+json\r\ncontent-length: ${frame.length + request.length}\r\n\r\n`,
  );
  socket.write(Buffer.concat([frame, request]));
  return socket;
}

/** The JSON messages of a Connect stream, as far as they are there: whole ones only. */
function messagesOf(
  answer: Buffer,
): { readonly revision?: string; readonly error?: { code: string; message: string } }[] {
  const messages = [];
  let at = answer.indexOf('\r\n\r\n') + 4;
  while (at + 5 <= answer.length) {
    const end = at + 5 + answer.readUInt32BE(at + 1);
    if (end > answer.length) break;
    messages.push(JSON.parse(answer.subarray(at + 5, end).toString('utf8')));
    at = end;
  }
  return messages;
}

test('watchers that read nothing are cut off, are told so when they read, and cost the server little', async (t) => {
  await using controlPlane = await startControlPlane();
  await controlPlane.createBay('edge');
  const manifests = controlPlane.client(ManifestService);
  const sockets = await Promise.all(Array.from({ length: 10 }, () => watchUnread(controlPlane)));
  const metrics = async () => (await fetch(`${controlPlane.url}/metrics`)).text();
  await until('all watch', async () => /^baykeeper_api_watches 10$/m.test(await metrics()));
  const write = async (round: number): Promise<void> => {
    await manifests.apply({
      manifests: Array.from({ length: 100 }, (_, i) => ({
        object: {
          case: 'container',
          value: {
            metadata: { bay: 'edge', name: `c${i}`, annotations: { big: `${round}`.padEnd(20_000, 'x') } },
            spec: { image: 'i' },
          },
        },
      })),
    });
  };
  // What is in flight is there after the first rounds; from then on nothing may grow.
  for (let round = 0; round < 15; round += 1) await write(round);
  const early = await residentMb(controlPlane.program.pid);
  for (let round = 15; round < 45; round += 1) await write(round);
  const late = await residentMb(controlPlane.program.pid);
  t.log(`resident: ${Math.round(early)} MB after 30 MB of changes, ${Math.round(late)} MB after 90 MB`);
  t.true(late - early < 60, `it grew from ${early} to ${late} MB`);

  const [reader] = sockets;
  if (!reader) throw new Error('there are no sockets');
  const chunks: Buffer[] = [];
  reader.on('data', (chunk: Buffer) => chunks.push(chunk));
  reader.resume();
  await once(reader, 'close');
  const messages = messagesOf(Buffer.concat(chunks));
  const error = messages.at(-1)?.error;
  t.is(error?.code, 'resource_exhausted');
  t.regex(error?.message ?? '', /^the watcher is too slow: .*watch again from the last revision received$/);
  const last = BigInt(messages.at(-2)?.revision ?? 0);
  t.true(last > 0n);
  // And so it can.
  const abort = new AbortController();
  const events = controlPlane
    .client(ContainerService)
    .watchContainers({ bay: 'edge', sinceRevision: last }, { signal: abort.signal });
  for await (const { revision } of events) {
    t.is(revision, last + 1n);
    break;
  }
  abort.abort();
  for (const socket of sockets) socket.destroy();
  await until('no watch is left', async () => /^baykeeper_api_watches 0$/m.test(await metrics()));
});
