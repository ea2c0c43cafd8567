import { constants, type ServerHttp2Session } from 'node:http2';
import type { Logger } from 'pino';

/** How long an HTTP/2 connection is kept. */
export interface SessionLimits {
  /** A connection that does not answer a ping so often is dropped. Default 30 s. */
  readonly pingIntervalMs?: number;
  /** A connection on which nothing is asked for so long is closed. Default 5 min. */
  readonly idleTimeoutMs?: number;
}

/** Pings and settings that a client may send, on average, each second. gRPC measures lines with pings, so that it can be many. */
const controlFramesPerSecond = 1000;

/** Ends an HTTP/2 connection whose client is gone, asks for nothing, or sends what only costs. */
export function watchSession(
  session: ServerHttp2Session,
  { pingIntervalMs = 30_000, idleTimeoutMs = 300_000, log }: SessionLimits & { readonly log: Logger },
): void {
  // The window of the connection, like that of a stream: with the usual 64 KiB, large messages wait for each other.
  session.setLocalWindowSize(4 * 1024 * 1024);
  let answered = true;
  let controlFrames = 0;
  const count = (): void => {
    controlFrames += 1;
    if (controlFrames <= (controlFramesPerSecond * pingIntervalMs) / 1000 || session.destroyed) return;
    log.debug('too many pings or settings: the connection is closed');
    session.destroy(undefined, constants.NGHTTP2_ENHANCE_YOUR_CALM);
  };
  session.on('ping', count);
  session.on('remoteSettings', count);
  const pings = setInterval(() => {
    controlFrames = 0;
    if (!answered || session.destroyed) {
      session.destroy();
      return;
    }
    answered = false;
    session.ping((error) => {
      answered = error === null;
    });
  }, pingIntervalMs);
  pings.unref();
  session.setTimeout(idleTimeoutMs, () => session.close());
  session.once('close', () => clearInterval(pings));
}
