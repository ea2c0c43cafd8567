import { subscribe } from 'node:diagnostics_channel';
import type { ClientRequest, IncomingMessage } from 'node:http';
import { createRequire } from 'node:module';
import type Docker from 'dockerode';

/**
 * dockerode without what an agent never uses: its SSH transport (ssh2) and its BuildKit sessions (gRPC). Both are loaded by it at once,
 * 150 files and 19 MB of resident memory of the agent's 70. Their places are taken by stubs that say so when called; where a later
 * dockerode has other files, everything is loaded, and works.
 */
const unused = ['./session.js', 'docker-modem/lib/ssh.js'];

/** Talks to the engine at a Unix socket. Nothing is dialled until it is used. */
export function dockerClient(socketPath: string): Docker {
  const require = createRequire(import.meta.url);
  const fromDockerode = createRequire(require.resolve('dockerode'));
  for (const request of unused) {
    let path: string;
    try {
      path = fromDockerode.resolve(request);
    } catch {
      continue; // This dockerode does not have it.
    }
    if (require.cache[path]) continue;
    const Module = require('node:module') as { new (id: string): NodeJS.Module };
    const stub = new Module(path);
    stub.filename = path;
    stub.loaded = true;
    stub.exports = () => {
      throw new Error(`${request} is left out: the agent speaks to the engine through its Unix socket only`);
    };
    require.cache[path] = stub;
  }
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
  subscribe('http.client.response.finish', (message) => {
    const { request, response } = message as { request: ClientRequest; response: IncomingMessage };
    if (Reflect.get(request, 'socketPath') !== socketPath) return;
    response.once('close', () => {
      if (!response.complete) request.emit('error', new Error('aborted: it broke off in its answer'));
    });
  });
}
