import { once } from 'node:events';
import net from 'node:net';
import test from 'ava';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { residentMb } from '../bench/measure.ts';
import { startControlPlane } from '../harness/control_plane.ts';

/* Ten thousand connections that somebody opened and does nothing with. */

const call =
  'POST /baykeeper.v1.BayService/ListBays HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}';
/** What each says before it falls silent. */
const kinds: Readonly<Record<string, string>> = {
  'nothing at all': '',
  'half a request': call.slice(0, 60),
  'a call without identity': call,
  'the beginning of HTTP/2': `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${'\0\0\0\x04\0\0\0\0\0'}`,
};

test('ten thousand idle connections cost some memory, and nobody else’s calls', async (t) => {
  await using controlPlane = await startControlPlane();
  await controlPlane.createBay('edge');
  const { pid } = controlPlane.program;
  const before = await residentMb(pid);
  const sockets: net.Socket[] = [];
  try {
    for (const text of Object.values(kinds)) {
      for (let i = 0; i < 25; i += 1) {
        await Promise.all(
          Array.from({ length: 100 }, async () => {
            const socket = net.connect(controlPlane.port, '127.0.0.1');
            sockets.push(socket);
            // The server may cut it off whenever it likes.
            socket.on('error', () => undefined);
            socket.resume();
            await once(socket, 'connect');
            if (text) socket.write(Buffer.from(text, 'latin1'));
          }),
        );
        await controlPlane.client(BayService).getBay({ name: 'edge' });
      }
    }
    t.is(sockets.length, 10_000);
    for (let i = 0; i < 100; i += 1) {
      await controlPlane.client(ContainerService).createContainer({
        container: { metadata: { bay: 'edge', name: `c${i}` }, spec: { image: 'busybox' } },
      });
    }
    const open = sockets.filter((socket) => !socket.destroyed).length;
    const after = await residentMb(pid);
    t.log(`${open} open; resident: ${Math.round(before)} MB before, ${Math.round(after)} MB with them`);
    // 25 kB each at the most, and what a server grows by that works at all.
    t.true(after - before < 350, `it grew from ${before} to ${after} MB`);
  } finally {
    for (const socket of sockets) socket.destroy();
  }
  await controlPlane.client(BayService).getBay({ name: 'edge' });
  t.true(controlPlane.program.running);
});
