import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import tls from 'node:tls';
import test, { type ExecutionContext } from 'ava';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { residentMb } from '../bench/measure.ts';
import { type ControlPlane, startControlPlane } from '../harness/control_plane.ts';

/* Ten thousand connections that somebody opened and does nothing with. */

const call =
  'POST /baykeeper.v1.BayService/ListBays HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}';
const http2Start = `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${'\0\0\0\x04\0\0\0\0\0'}`;

/** A way to open a connection, and what is said on it before it falls silent. */
interface Kind {
  readonly open: () => net.Socket;
  /** The event by which it is open. */
  readonly opened: 'connect' | 'secureConnect';
  readonly text: string;
}

/** Opens as many of each kind; calls of others are answered meanwhile, and then. */
async function hold(t: ExecutionContext, controlPlane: ControlPlane, kinds: readonly Kind[], mostMb: number) {
  const { pid } = controlPlane.program;
  const before = await residentMb(pid);
  const sockets: net.Socket[] = [];
  try {
    for (const { open, opened, text } of kinds) {
      for (let i = 0; i < 100 / kinds.length; i += 1) {
        await Promise.all(
          Array.from({ length: 100 }, async () => {
            const socket = open();
            sockets.push(socket);
            // The server may cut it off whenever it likes.
            socket.on('error', () => undefined);
            socket.resume();
            await once(socket, opened);
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
    t.true(after - before < mostMb, `it grew from ${before} to ${after} MB`);
  } finally {
    for (const socket of sockets) socket.destroy();
  }
  await controlPlane.client(BayService).getBay({ name: 'edge' });
  t.true(controlPlane.program.running);
}

test.serial('ten thousand idle connections cost some memory, and nobody else’s calls', async (t) => {
  await using controlPlane = await startControlPlane();
  await controlPlane.createBay('edge');
  const open = () => net.connect(controlPlane.port, '127.0.0.1');
  const texts = ['', call.slice(0, 60), call, http2Start];
  const kinds = texts.map((text) => ({ open, opened: 'connect', text }) as const);
  // 25 kB each at the most, and what a server grows by that works at all.
  await hold(t, controlPlane, kinds, 350);
});

test.serial('nor do ten thousand that have shaken hands', async (t) => {
  await using controlPlane = await startControlPlane({ args: ['--tls', 'on'] });
  await controlPlane.createBay('edge');
  const ca = readFileSync(path.join(controlPlane.dataDir, 'tls', 'ca.pem'), 'utf8');
  // One context for all; no session is given, so that each has a handshake of its own.
  const secureContext = tls.createSecureContext({ ca });
  const open = (ALPNProtocols: string[]) => () =>
    tls.connect({ host: '127.0.0.1', port: controlPlane.port, secureContext, ALPNProtocols });
  const kinds: Kind[] = [
    { open: open(['http/1.1']), opened: 'secureConnect', text: '' },
    { open: open(['http/1.1']), opened: 'secureConnect', text: call.slice(0, 60) },
    { open: open(['http/1.1']), opened: 'secureConnect', text: call },
    { open: open(['h2']), opened: 'secureConnect', text: http2Start },
  ];
  // 100 kB each at the most.
  await hold(t, controlPlane, kinds, 1_000);
});
