import { execFile } from 'node:child_process';
import { readdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { freePort } from '../free_port.ts';
import { Program } from '../program.ts';
import { until } from '../until.ts';

/** What etcd held at a moment. */
export interface EtcdSnapshot {
  /** A copy of its data folder. */
  readonly folder: string;
}

/** A real etcd on 127.0.0.1, on a port that stays the same over restarts. Its files are in a folder of the caller's, who removes it. */
export interface Etcd {
  /** `http://127.0.0.1:PORT`. */
  readonly url: string;
  readonly program: Program;
  /** Copies the data as a crash at this moment would leave it. Clients notice a pause of some 100 ms. */
  snapshot(): Promise<EtcdSnapshot>;
  /** Ends etcd as a crash would, and starts it on the data of a snapshot, which can be used again. */
  restore(snapshot: EtcdSnapshot): Promise<void>;
  /** Goes on to a revision that nobody has seen, and forgets all before it. */
  compact(): Promise<void>;
}

interface Answer {
  /** 64-bit numbers are strings in etcd's JSON. */
  readonly header: { readonly revision: string };
}

/** Starts it. Everything is on disk when it is acknowledged, as in a real one. */
export async function startEtcd(binary: string, folder: string): Promise<Etcd> {
  const [client, peer] = [await freePort(), await freePort()];
  const url = `http://127.0.0.1:${client}`;
  const peerUrl = `http://127.0.0.1:${peer}`;
  const data = path.join(folder, 'data');
  const program = new Program({
    command: [
      binary,
      ...['--data-dir', data, '--listen-client-urls', url, '--advertise-client-urls', url],
      ...['--listen-peer-urls', peerUrl, '--initial-advertise-peer-urls', peerUrl],
      ...['--initial-cluster', `default=${peerUrl}`],
    ],
    readyLine: /ready to serve client requests/,
  });
  await program.start();

  const ask = async (call: string, body: object): Promise<Answer> => {
    const response = await fetch(`${url}/v3/kv/${call}`, { method: 'POST', body: JSON.stringify(body) });
    if (!response.ok) throw new Error(`etcd ${call}: ${response.status} ${await response.text()}`);
    return (await response.json()) as Answer;
  };
  // Not with cp of Node.js: it would write out the space that etcd has only reserved.
  const copy = (from: string, to: string) =>
    promisify(execFile)('cp', ['--archive', '--sparse=always', '--reflink=auto', from, to]);
  let snapshots = 0;
  return {
    url,
    program,
    async snapshot() {
      snapshots += 1;
      const copied = path.join(folder, `snapshot-${snapshots}`);
      await program.signal('SIGSTOP');
      try {
        await until('etcd stands still', () => isStopped(program.pid));
        await copy(data, copied);
      } finally {
        await program.signal('SIGCONT');
      }
      return { folder: copied };
    },
    async restore(snapshot) {
      await program.kill();
      await rm(data, { recursive: true, force: true });
      await copy(snapshot.folder, data);
      await program.start();
    },
    async compact() {
      // A key of no kind that Kubernetes knows. Twice: who has seen the revision before may go on from the first.
      const put = () => ask('put', { key: base64('/baykeeper-test/compaction'), value: base64('') });
      await put();
      const { header } = await put();
      await ask('compaction', { revision: header.revision, physical: true });
    },
  };
}

/** Whether each of its threads is: one in a write to the disk ends that first. */
async function isStopped(pid: number): Promise<boolean> {
  const threads = await readdir(`/proc/${pid}/task`);
  const stats = await Promise.all(threads.map((thread) => readFile(`/proc/${pid}/task/${thread}/stat`, 'utf8')));
  return stats.every((stat) => stat.slice(stat.lastIndexOf(')') + 2).startsWith('T'));
}

const base64 = (text: string) => Buffer.from(text).toString('base64');
