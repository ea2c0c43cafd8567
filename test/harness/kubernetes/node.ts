import { execFile } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import type { TestDockerd } from '../dockerd.ts';
import { Program } from '../program.ts';
import type { ApiClient } from './api_client.ts';
import { flagArguments } from './api_server.ts';
import type { CertificateAuthority } from './certificates.ts';
import { writeKubeconfig } from './kubeconfig.ts';
import { pauseImage } from './node_engine.ts';
import { untilProgram } from './until_program.ts';

/** A node of a cluster: a real kubelet, and a Docker engine of its own. */
export interface KubernetesNode {
  readonly name: string;
  /** Its InternalIP: this machine's address on the engine's bridge. */
  readonly address: string;
  /** Images for its pods go in here. */
  readonly dockerd: TestDockerd;
  readonly kubelet: Program;
}

export interface NodeOptions {
  /** Path of kubelet. */
  readonly binary: string;
  readonly name: string;
  readonly dockerd: TestDockerd;
  readonly server: string;
  readonly authority: CertificateAuthority;
  readonly admin: ApiClient;
}

/** Starts a kubelet. Resolves when the API server says that the node is ready. Ended by its caller; the rest goes with the engine. */
export async function startNode(options: NodeOptions): Promise<KubernetesNode> {
  const { binary, name, dockerd, server, authority, admin } = options;
  const folder = path.join(dockerd.dir, 'kubelet');
  const file = (base: string) => path.join(folder, base);
  await mkdir(folder);
  const [client, serving] = await Promise.all([
    authority.issue({ commonName: `system:node:${name}`, organizations: ['system:nodes'] }),
    authority.issue({ commonName: name, hosts: [dockerd.address] }),
  ]);
  const kubeconfig = await writeKubeconfig(file('kubeconfig'), {
    server,
    caFile: authority.certFile,
    user: { 'client-certificate': client.certFile, 'client-key': client.keyFile },
  });
  const config = {
    ...kubeletConfig,
    address: dockerd.address,
    cgroupRoot: `/${dockerd.bridge}`,
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: false },
      x509: { clientCAFile: authority.certFile },
    },
    tlsCertFile: serving.certFile,
    tlsPrivateKeyFile: serving.keyFile,
  };
  await writeFile(file('config.yaml'), JSON.stringify(config));
  await makeCgroups(dockerd.bridge);
  const flags = flagArguments({
    config: file('config.yaml'),
    kubeconfig,
    'hostname-override': name,
    'node-ip': dockerd.address,
    'container-runtime': 'docker',
    'docker-endpoint': `unix://${dockerd.socketPath}`,
    'pod-infra-container-image': pauseImage,
    // By default all of these are the machine's.
    'root-dir': file('root'),
    'cert-dir': file('pki'),
    'container-runtime-endpoint': `unix://${file('dockershim.sock')}`,
    'experimental-dockershim-root-directory': file('dockershim'),
    'volume-plugin-dir': file('volume-plugins'),
  });
  const kubelet = new Program({ command: await apart(folder, [binary, ...flags]) });
  await kubelet.start();
  try {
    await untilNodeReady(name, kubelet, admin);
  } catch (error) {
    await kubelet.kill();
    throw error;
  }
  return { name, address: dockerd.address, dockerd, kubelet };
}

const kubeletConfig = {
  apiVersion: 'kubelet.config.k8s.io/v1beta1',
  kind: 'KubeletConfiguration',
  port: 10250,
  readOnlyPort: 0,
  healthzPort: 0,
  authorization: { mode: 'AlwaysAllow' },
  cgroupDriver: 'cgroupfs',
  failSwapOn: false,
  hairpinMode: 'none',
  // The machine's own rules are left as they are.
  makeIPTablesUtilChains: false,
  // There is no such server; without one each pod would get an event about it.
  clusterDNS: ['10.96.0.10'],
  clusterDomain: 'cluster.local',
  // A machine that is nearly full runs tests all the same, and nobody could pull again what was cleared away.
  evictionHard: { 'memory.available': '1Mi', 'nodefs.available': '0%', 'imagefs.available': '0%' },
  imageGCHighThresholdPercent: 100,
  imageGCLowThresholdPercent: 99,
  oomScoreAdj: 0,
  // A change is said at once, and the same again as seldom as by default.
  nodeStatusUpdateFrequency: '1s',
  nodeStatusReportFrequency: '5m',
  // Its socket is in /var/lib/kubelet, wherever the rest is.
  featureGates: { DevicePlugins: false },
};

/** What kubelet sets in the kernel, and to what. */
const kernelSettings = {
  'vm/overcommit_memory': '1',
  'vm/panic_on_oom': '0',
  'kernel/panic': '10',
  'kernel/panic_on_oops': '1',
  'kernel/keys/root_maxkeys': '1000000',
  'kernel/keys/root_maxbytes': '25000000',
};

/**
 * The command of a kubelet that leaves the machine as it is: in a mount namespace of its own, where it finds its kernel settings made already and
 * has a /var/log to itself. What it mounts for pods below `folder` is seen outside, by the engine. `unshare` and the shell become it.
 */
async function apart(folder: string, command: readonly string[]): Promise<[string, ...string[]]> {
  const logs = path.join(folder, 'log');
  await mkdir(logs);
  const binds: [from: string, to: string][] = [
    [logs, '/var/log'],
    // Else it makes events of whatever ran out of memory on this machine since it was booted.
    ['/dev/null', '/dev/kmsg'],
  ];
  for (const [name, value] of Object.entries(kernelSettings)) {
    const stand = path.join(folder, name.replaceAll('/', '_'));
    await writeFile(stand, `${value}\n`);
    binds.push([stand, `/proc/sys/${name}`]);
  }
  const run = promisify(execFile);
  await run('mount', ['--bind', folder, folder]);
  await run('mount', ['--make-shared', folder]);
  const script = `
    while [ "$1" != -- ]; do
      mount --make-private "$(findmnt --noheadings --output TARGET --target "$2")"
      mount --bind "$1" "$2"
      shift 2
    done
    shift
    exec "$@"`;
  return [
    'unshare',
    '--mount',
    '--propagation=unchanged',
    'sh',
    '-ec',
    script,
    'sh',
    ...binds.flat(),
    '--',
    ...command,
  ];
}

/** The cgroup that kubelet is told to keep its pods in has to be there, in each hierarchy. The engine removes them. */
async function makeCgroups(name: string): Promise<void> {
  const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n').map((line) => line.split(' '));
  const [first, second] = ['cgroup', 'cgroup2'].map((type) => mounts.filter((mount) => mount[2] === type));
  for (const [, place = ''] of first?.length ? first : (second ?? [])) await mkdir(path.join(place, name));
}

async function untilNodeReady(name: string, kubelet: Program, admin: ApiClient): Promise<void> {
  interface Node {
    readonly spec?: { readonly taints?: readonly { readonly key: string }[] };
    readonly status?: { readonly conditions?: readonly { type: string; status: string; message: string }[] };
  }
  await untilProgram(`node ${name} is ready`, kubelet, async () => {
    const { body } = await admin.request<Node>('GET', `/api/v1/nodes/${name}`);
    const ready = body.status?.conditions?.find(({ type }) => type === 'Ready');
    if (ready?.status !== 'True') throw new Error(ready?.message ?? 'the API server does not know it');
    // The controller manager takes it away; until then no pod is scheduled.
    return !body.spec?.taints?.some(({ key }) => key === 'node.kubernetes.io/not-ready');
  });
}
