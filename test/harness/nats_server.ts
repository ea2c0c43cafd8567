import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { freePort } from './free_port.ts';
import { Program } from './program.ts';
import { temporaryFolder } from './temporary_folder.ts';

/** A real nats-server of one's own, on a free port. The port stays the same over restarts. */
export interface NatsServer {
  /** `nats://127.0.0.1:PORT`. */
  readonly url: string;
  readonly port: number;
  readonly program: Program;
  /** Its folder: removed at the end. */
  readonly folder: string;
  /** As a crash, and up again on the same port and data. */
  restart(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface NatsServerOptions {
  /** What else goes into its configuration file; gets its folder. Default: nothing, so that everybody may do everything. */
  readonly configuration?: (folder: string) => string;
}

export async function startNatsServer({ configuration }: NatsServerOptions = {}): Promise<NatsServer> {
  const folder = await temporaryFolder('nats');
  const port = await freePort();
  const file = path.join(folder.path, 'nats.conf');
  await writeFile(file, `listen: "127.0.0.1:${port}"\n${configuration?.(folder.path) ?? ''}\n`, { mode: 0o600 });
  const program = new Program({ command: ['nats-server', '-c', file], readyLine: /Server is ready/, env: natsPath() });
  const dispose = async () => {
    await program.stop();
    await folder[Symbol.asyncDispose]();
  };
  await program.start().catch(async (error) => {
    await dispose();
    throw error;
  });
  return {
    url: `nats://127.0.0.1:${port}`,
    port,
    program,
    folder: folder.path,
    async restart() {
      await program.kill();
      await program.start();
    },
    [Symbol.asyncDispose]: dispose,
  };
}

/** Debian keeps it where the PATH of an ordinary user does not look. */
function natsPath(): Record<string, string> {
  return { PATH: `${process.env.PATH ?? ''}:/usr/local/sbin:/usr/sbin` };
}
