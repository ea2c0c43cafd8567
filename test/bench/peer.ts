import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { freePort } from '../harness/free_port.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';
import { h2load, loadRow, type Row, residentMb } from './measure.ts';

/**
 * The peer: durable puts into etcd, which is what a kube-apiserver does under each create, beside everything that it adds. By the same load
 * generator with as many callers, over gRPC.
 */
export async function etcd(): Promise<Row[]> {
  await using folder = await temporaryFolder('etcd');
  const port = await freePort();
  const peerPort = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const child = spawn(
    'etcd',
    [
      ...['--data-dir', path.join(folder.path, 'data'), '--log-level', 'error'],
      ...['--listen-client-urls', url, '--advertise-client-urls', url],
      ...[
        '--listen-peer-urls',
        `http://127.0.0.1:${peerPort}`,
        '--initial-advertise-peer-urls',
        `http://127.0.0.1:${peerPort}`,
      ],
      ...['--initial-cluster', `default=http://127.0.0.1:${peerPort}`],
    ],
    { stdio: 'ignore' },
  );
  let missing: Error | undefined;
  child.once('error', (error) => {
    missing = error;
  });
  try {
    await until('etcd answers', async () => missing !== undefined || (await fetch(`${url}/health`)).ok);
    if (missing)
      return [{ what: 'etcd beside it', measured: 'not installed (Debian package etcd-server)', target: '' }];
    // etcdserverpb.PutRequest { key = 1, value = 2 }: the same size as a container. Each put makes a new revision.
    const key = Buffer.from('/registry/pods/default/bench');
    const value = randomBytes(400);
    const message = Buffer.concat([Buffer.from([0x0a, key.length]), key, Buffer.from([0x12, 0x90, 0x03]), value]);
    const framed = Buffer.concat([Buffer.alloc(5), message]);
    framed.writeUInt32BE(message.byteLength, 1);
    const load = await h2load({
      url: `${url}/etcdserverpb.KV/Put`,
      body: framed,
      headers: { 'content-type': 'application/grpc', te: 'trailers' },
      callers: 32,
      seconds: 10,
    });
    return [
      loadRow('peer: put into etcd, 32 callers, gRPC', load, ''),
      { what: '  memory of etcd then', measured: `${Math.round(await residentMb(Number(child.pid)))} MB`, target: '' },
    ];
  } finally {
    child.kill('SIGKILL');
  }
}
