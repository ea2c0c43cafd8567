import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { temporaryFolder } from '../temporary_folder.ts';
import {
  controlPlanePrograms,
  debianVersion,
  etcdBinary,
  findKubernetes,
  nodePrograms,
  officialVersion,
  versionFolder,
} from './binaries.ts';
import { canReach, downloadRelease } from './official_release.ts';

/** Where the programs of Kubernetes come from, on machines that have more or less of them than this one. */

/** Puts programs into a folder: a kubelet that says that it is of this version, and others that say nothing. */
async function fill(folder: string, names: readonly string[], version = '1.20.9'): Promise<string> {
  await mkdir(folder, { recursive: true });
  for (const name of names)
    await writeFile(path.join(folder, name), `#!/bin/sh\necho Kubernetes v${version}\n`, { mode: 0o755 });
  return folder;
}

test('programs come from the first place that has all that are asked for', async (t) => {
  await using folder = await temporaryFolder('binaries');
  const at = (name: string) => path.join(folder.path, name);
  const environment = {
    KUBEBUILDER_ASSETS: at('assets'),
    PATH: `${at('one')}:${at('two')}`,
    XDG_CACHE_HOME: at('cache'),
  };
  const placeOf = async (names: Parameters<typeof findKubernetes>[0]) => {
    const found = await findKubernetes(names, environment);
    return found && [...new Set(Object.values(found).map((file) => path.dirname(file)))];
  };
  t.is(await placeOf(nodePrograms), undefined);

  const cache = path.join(at('cache'), 'baykeeper');
  const built = await fill(versionFolder(cache, debianVersion), nodePrograms);
  t.deepEqual(await placeOf(nodePrograms), [built]);
  const official = await fill(versionFolder(cache, officialVersion), nodePrograms);
  t.deepEqual(await placeOf(nodePrograms), [official]);

  // A kubectl alone is no Kubernetes.
  await fill(at('one'), ['kubectl']);
  t.deepEqual(await placeOf(controlPlanePrograms), [official]);
  await fill(at('two'), ['kube-apiserver', 'kubelet', 'kube-scheduler', 'kube-controller-manager']);
  t.deepEqual((await placeOf(nodePrograms))?.sort(), [at('one'), at('two')]);
  // Kubelets that know of no Docker engine are of no use.
  await fill(at('two'), ['kubelet'], '1.24.0');
  t.deepEqual(await placeOf(nodePrograms), [official]);

  await t.throwsAsync(etcdBinary(environment), { message: /^etcd: neither in KUBEBUILDER_ASSETS nor on PATH/ });
  // What the tests of other controllers have.
  await fill(at('assets'), ['kube-apiserver', 'kubectl', 'etcd']);
  t.deepEqual(await placeOf(controlPlanePrograms), [at('assets')]);
  t.deepEqual(await placeOf(nodePrograms), [official]);
  t.is(await etcdBinary(environment), path.join(at('assets'), 'etcd'));
});

/** A web server of this machine, instead of the one that is far away. Resolves with its address. */
async function serve(stack: AsyncDisposableStack, answer: RequestListener): Promise<string> {
  const server = createServer(answer).listen(0, '127.0.0.1');
  await once(server, 'listening');
  stack.defer(async () => {
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/kubernetes-server-linux-amd64.tar.gz`;
}

test('a release is unpacked when it is what it should be, and only then', async (t) => {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await temporaryFolder('release')).path;
  const at = (name: string) => path.join(folder, name);
  await fill(at('kubernetes/server/bin'), [...nodePrograms, 'kubeadm']);
  await promisify(execFile)('tar', [
    '--create',
    '--gzip',
    '--file',
    at('release'),
    '--directory',
    folder,
    'kubernetes',
  ]);
  const archive = await readFile(at('release'));
  const digest = createHash('sha512').update(archive).digest('hex');
  const url = await serve(stack, (_, answer) => answer.end(archive));
  for (const name of ['good', 'bad']) await mkdir(at(name));

  t.true(await canReach({ url, digest }, at('log')));
  const bin = await downloadRelease({ url, digest }, at('good'), at('log'));
  t.deepEqual((await readdir(bin)).sort(), [...nodePrograms].sort());
  const other = 'f'.repeat(128);
  await t.throwsAsync(downloadRelease({ url, digest: other }, at('bad'), at('log')), {
    message: `${url} is not what it should be: its SHA-512 is ${digest}, expected ${other}`,
  });
  t.false((await readdir(at('bad'))).includes('bin'));
});

test('a release that is not there, or does not come, is not waited for', async (t) => {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await temporaryFolder('release')).path;
  const logFile = path.join(folder, 'log');
  const missing = await serve(stack, (_, answer) => answer.writeHead(404).end());
  const silent = await serve(stack, () => undefined);
  const reached = await Promise.all(
    [missing, silent, 'http://127.0.0.1:1/nobody'].map((url) => canReach({ url, digest: '' }, logFile)),
  );
  t.deepEqual(reached, [false, false, false]);
});
