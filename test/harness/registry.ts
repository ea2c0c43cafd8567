import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import path from 'node:path';
import type { Readable } from 'node:stream';
import type { TestDockerd } from './dockerd.ts';
import { freePort } from './free_port.ts';
import { Program } from './program.ts';
import { temporaryFolder } from './temporary_folder.ts';
import { until } from './until.ts';

/** A registry of images on 127.0.0.1 (Debian package docker-registry), behind a gate that tests open and close. */
export interface TestRegistry {
  /** `127.0.0.1:PORT`: with a `/NAME:TAG` behind it, the name of an image that engines on this machine can pull. */
  readonly host: string;
  /** How many layers and configurations of images were asked for so far. */
  readonly blobsAsked: number;
  /** From now on layers do not come, until `release`. */
  hold(): void;
  release(): void;
  /** Nobody listens, until `up`. */
  down(): Promise<void>;
  up(): Promise<void>;
  /** Gives an image of the engine another name, and pushes that. The image's own name stays. Resolves with the new name. */
  push(dockerd: TestDockerd, image: string, name: string): Promise<string>;
  [Symbol.asyncDispose](): Promise<void>;
}

export async function startRegistry(): Promise<TestRegistry> {
  const folder = await temporaryFolder('registry');
  const [port, inner] = [await freePort(), await freePort()];
  const config = path.join(folder.path, 'config.yml');
  const { storage, http } = {
    storage: { filesystem: { rootdirectory: path.join(folder.path, 'data') } },
    http: { addr: `127.0.0.1:${inner}`, relativeurls: true },
  };
  // JSON is YAML.
  await writeFile(config, JSON.stringify({ version: '0.1', log: { level: 'warn' }, storage, http }));
  const program = new Program({ command: ['docker-registry', 'serve', config] });
  await program.start();

  let gate = Promise.withResolvers<void>();
  gate.resolve();
  let asked = 0;
  const server = createServer((incoming, answer) => {
    const forward = async () => {
      if (incoming.method === 'GET' && incoming.url?.includes('/blobs/')) {
        asked += 1;
        await gate.promise;
      }
      if (answer.destroyed) return;
      const { method, url, headers } = incoming;
      const outgoing = request({ host: '127.0.0.1', port: inner, method, path: url, headers }, (reply) => {
        answer.writeHead(reply.statusCode ?? 502, reply.headers);
        reply.pipe(answer);
      });
      outgoing.on('error', () => answer.destroy());
      incoming.pipe(outgoing);
    };
    void forward();
  });
  const up = async () => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  };
  const down = async () => {
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  };
  const dispose = async () => {
    if (server.listening) await down();
    await program.stop();
    await folder[Symbol.asyncDispose]();
  };
  const host = `127.0.0.1:${port}`;
  try {
    await up();
    await until('the registry answers', async () => (await fetch(`http://${host}/v2/`)).ok);
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    host,
    get blobsAsked() {
      return asked;
    },
    hold() {
      gate = Promise.withResolvers();
    },
    release: () => gate.resolve(),
    down,
    up,
    async push({ docker }, image, name) {
      const [repo = '', tag = 'latest'] = name.split(':');
      const whole = `${host}/${repo}`;
      await docker.getImage(image).tag({ repo: whole, tag });
      const answer = (await docker.getImage(`${whole}:${tag}`).push({ tag, authconfig: {} })) as Readable;
      let said = '';
      for await (const chunk of answer) said += String(chunk);
      if (said.includes('"error"')) throw new Error(`docker push: ${said}`);
      return `${whole}:${tag}`;
    },
    [Symbol.asyncDispose]: dispose,
  };
}
