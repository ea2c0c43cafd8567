import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** A stretch of network before a server, on a port of its own, that fails as it is told. */
export interface TcpRelay extends AsyncDisposable {
  readonly port: number;
  /** Connections that are open. */
  readonly open: number;
  /** From now on nothing goes through the connections that are open, and neither end is told. New ones are not affected. */
  silence(): void;
  /** Breaks all that are open. */
  cut(): void;
  /** Connections that come from now on are taken, and led on only when `resume` is called. */
  hold(): void;
  resume(): void;
}

export async function tcpRelay(target: { readonly host: string; readonly port: number }): Promise<TcpRelay> {
  const pairs = new Set<readonly [Socket, Socket]>();
  let held: Socket[] | undefined;
  const lead = (near: Socket) => {
    const far = connect(target.port, target.host);
    const pair = [near, far] as const;
    pairs.add(pair);
    for (const [from, to] of [pair, pair.toReversed() as [Socket, Socket]]) {
      from.pipe(to);
      // The end of one is the end of the other.
      from.on('error', () => undefined);
      from.once('close', () => {
        to.destroy();
        pairs.delete(pair);
      });
    }
  };
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    if (held) held.push(socket);
    else lead(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const cut = () => {
    for (const pair of pairs) for (const socket of pair) socket.destroy();
  };
  return {
    port: (server.address() as AddressInfo).port,
    get open() {
      return pairs.size;
    },
    silence() {
      for (const [near, far] of pairs) {
        near.unpipe(far);
        far.unpipe(near);
        for (const socket of [near, far]) socket.removeAllListeners('close').pause();
      }
    },
    cut,
    hold() {
      held ??= [];
    },
    resume() {
      const waiting = held ?? [];
      held = undefined;
      for (const socket of waiting) lead(socket);
    },
    async [Symbol.asyncDispose]() {
      server.close();
      cut();
      for (const socket of held ?? []) socket.destroy();
      await once(server, 'close');
    },
  };
}
