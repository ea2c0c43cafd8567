import { subscribe } from 'node:diagnostics_channel';
import type { ClientRequest, IncomingMessage } from 'node:http';
import { createRequire } from 'node:module';
import type Docker from 'dockerode';
import { leaveOut } from '../process/leave_out.ts';

/**
 * dockerode without what an agent never uses: its SSH transport (ssh2), its BuildKit sessions (gRPC) and what packs folders to be built. All of it is
 * loaded by it at once, 170 files and 19 MB of resident memory of the agent's 70.
 */
const unused = ['./session.js', 'docker-modem/lib/ssh.js', 'tar-fs', '@balena/dockerignore'];

/** Talks to the engine at a Unix socket. Nothing is dialled until it is used. */
export function dockerClient(socketPath: string): Docker {
  const require = createRequire(import.meta.url);
  leaveOut(require.resolve('dockerode'), unused);
  const Client = require('dockerode') as { new (options: Docker.DockerOptions): Docker };
  failBrokenAnswers(socketPath);
  return new Client({ socketPath });
}

/**
 * An answer that breaks off, as when the engine is killed in the middle of it, becomes an error of its request. docker-modem listens for the
 * end of an answer only, which then never comes, and so would its caller's. It has no place for this: an agent of our own, as it takes one, costs
 * 4 MB.
 */
function failBrokenAnswers(socketPath: string): void {
  if (sockets.size === 0) subscribe('http.client.response.finish', failWhenBroken);
  sockets.add(socketPath);
}

/** Of all engines that were asked for: their requests are heard of in one place, and once. */
const sockets = new Set<unknown>();

function failWhenBroken(message: unknown): void {
  const { request, response } = message as { request: ClientRequest; response: IncomingMessage };
  if (!sockets.has(Reflect.get(request, 'socketPath'))) return;
  response.once('close', () => {
    if (!response.complete) request.emit('error', new Error('aborted: it broke off in its answer'));
  });
}
