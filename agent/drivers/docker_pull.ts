import type { Readable } from 'node:stream';
import type Docker from 'dockerode';
import { toDriverError } from './docker_errors.ts';
import { jsonLines } from './json_lines.ts';

/**
 * Pulls an image as `docker pull` does. Progress is read and thrown away: memory stays the same, however large the image.
 *
 * @param idleTimeoutMs How long the engine may say nothing.
 * Rejects with DriverError: image-not-found, pull-denied, pull-failed, no-space, cancelled, engine-unavailable.
 */
export async function pullImage(
  docker: Docker,
  image: string,
  idleTimeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const doing = `pull ${image}`;
  const idle = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const touch = () => {
    clearTimeout(timer);
    timer = setTimeout(
      () => idle.abort(new DOMException(`no progress in ${idleTimeoutMs} ms`, 'TimeoutError')),
      idleTimeoutMs,
    );
  };
  const either = signal ? AbortSignal.any([signal, idle.signal]) : idle.signal;
  touch();
  try {
    either.throwIfAborted();
    const stream = (await docker.pull(image, { abortSignal: either })) as Readable;
    const destroy = () => stream.destroy(either.reason instanceof Error ? either.reason : undefined);
    either.addEventListener('abort', destroy, { once: true });
    try {
      if (either.aborted) destroy();
      for await (const line of jsonLines(stream)) {
        touch();
        const error: unknown = Reflect.get(line, 'error');
        if (typeof error === 'string' && error) {
          // Here the engine has answered 200 already, and says the rest in the stream.
          throw Object.assign(new Error(error), { statusCode: 500 });
        }
      }
      either.throwIfAborted();
    } finally {
      either.removeEventListener('abort', destroy);
      stream.destroy();
    }
  } catch (cause) {
    if (idle.signal.aborted)
      throw toDriverError(Object.assign(new Error('no progress'), { statusCode: 500 }), doing, true);
    if (signal?.aborted) throw toDriverError(new DOMException('called off', 'AbortError'), doing, true);
    throw toDriverError(cause, doing, true);
  } finally {
    clearTimeout(timer);
  }
}
