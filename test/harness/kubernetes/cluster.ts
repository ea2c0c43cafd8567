import path from 'node:path';
import type { TestDockerd } from '../dockerd.ts';
import { Program, run } from '../program.ts';
import { temporaryFolder } from '../temporary_folder.ts';
import { until } from '../until.ts';
import type { ApiClient } from './api_client.ts';
import { type ApiServer, createApiServer, type Flags, flagArguments } from './api_server.ts';
import { type AuditEvent, auditFlags, readAudit } from './audit.ts';
import { controlPlanePrograms, etcdBinary, kubernetesBinaries, nodePrograms } from './binaries.ts';
import {
  type Certificate,
  type CertificateAuthority,
  type CertificateOptions,
  createAuthority,
} from './certificates.ts';
import { type EtcdSnapshot, startEtcd } from './etcd.ts';
import { type KubeconfigOptions, writeKubeconfig } from './kubeconfig.ts';
import { type KubernetesNode, startNode } from './node.ts';
import { startNodeEngine } from './node_engine.ts';
import { type ServiceAccountFiles, serviceAccountFiles } from './service_account.ts';

export interface KubernetesOptions {
  /**
   * Names of nodes, each with a kubelet and an engine of its own that really run pods. Default: none; then there is neither a controller
   * manager nor a scheduler, and pods need no service account.
   */
  readonly nodes?: readonly string[];
  /** Of kube-apiserver, without dashes, over the fixture's own: `{ 'max-requests-inflight': '5', 'watch-cache': 'false' }`. */
  readonly apiServerFlags?: Flags;
  /** Keeps an audit log, for `audit`. Default false. */
  readonly audit?: boolean;
}

export interface KubectlOptions {
  readonly input?: string;
  /** Default: the admin's. */
  readonly kubeconfig?: string;
  /** Default 60 s; then it is killed, and the promise rejects. */
  readonly timeoutMs?: number;
}

/** A real Kubernetes on this machine, beside which others may run: etcd and kube-apiserver; with nodes, all that makes pods run. */
export interface Kubernetes extends AsyncDisposable {
  /** `https://127.0.0.1:PORT`. Stays the same over restarts. */
  readonly url: string;
  /** Its folder: removed at the end. */
  readonly folder: string;
  /** Path of the kubeconfig of an admin (`system:masters`) with a client certificate. */
  readonly kubeconfig: string;
  /** The cluster's own authority: path of a PEM file, and what is in it. */
  readonly caFile: string;
  readonly ca: string;
  readonly nodes: readonly KubernetesNode[];

  /** kubectl of the cluster's version. Resolves with stdout; rejects with stderr in the message. */
  kubectl(args: readonly string[], options?: KubectlOptions): Promise<string>;
  /** A request as admin, over connections that are kept. Any status is an answer. */
  readonly request: ApiClient['request'];

  /** Resolves with the path of a kubeconfig with a client certificate. The user has the rights of the groups, and what is granted to either. */
  user(name: string, groups?: readonly string[]): Promise<string>;
  /** Resolves with the path of a kubeconfig. `server`: what stands before the API server; default: nothing does. */
  writeKubeconfig(
    options: Pick<KubeconfigOptions, 'user' | 'namespace'> & { readonly server?: string },
  ): Promise<string>;
  /** The files that a pod would find, as for an agent in the cluster. Makes namespace and account where they are not there. */
  serviceAccount(namespace: string, name: string): Promise<ServiceAccountFiles>;
  /** Of the cluster's authority, for servers and clients. */
  certificate(options: CertificateOptions): Promise<Certificate>;

  /** What runs now as kube-apiserver: for signals and its output. */
  readonly apiServer: Program;
  /** In order. */
  stopApiServer(): Promise<void>;
  /** As a crash: kill -9. */
  killApiServer(): Promise<void>;
  /** Starts it after it ended; resolves when it is ready. `flags`: from now on instead of `apiServerFlags`. */
  startApiServer(flags?: Flags): Promise<void>;
  /** Copies what etcd holds now. The cluster goes on. */
  etcdSnapshot(): Promise<EtcdSnapshot>;
  /** Puts etcd back to a snapshot, and starts everything anew that would remember what came after it. Resolves when the API server is ready. */
  etcdRestore(snapshot: EtcdSnapshot): Promise<void>;
  /** Makes etcd forget all revisions but the latest. An API server with a watch cache, as by default, still has some in it. */
  compact(): Promise<void>;
  /** Restarts the API server so that it answers 410 to every resourceVersion that it has given out so far. */
  expireRevisions(): Promise<void>;
  /** The requests that were answered so far, in that order. Needs `audit`. */
  audit(): Promise<AuditEvent[]>;
}

/** Starts one: in about 5 s without nodes, in about 15 s with one. Needs root for nodes, and the programs that set-up brings. */
export async function startKubernetes(options: KubernetesOptions = {}): Promise<Kubernetes> {
  const { nodes: nodeNames = [], apiServerFlags = {}, audit = false } = options;
  const withNodes = nodeNames.length > 0;
  const binaries = await kubernetesBinaries(controlPlanePrograms);
  const nodeBinaries = withNodes ? await kubernetesBinaries(nodePrograms) : undefined;
  const { kubectl } = nodeBinaries ?? binaries;
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await temporaryFolder('kubernetes')).path;
  const file = (name: string) => path.join(folder, name);
  const authority = await createAuthority(file('pki'));

  // Engines take as long as the API server does.
  const engines = nodeNames.map((name) => startNodeEngine(file(`node-${name}`)));
  const engineOutcomes = Promise.allSettled(engines);
  stack.defer(async () => endAll(await engineOutcomes));
  const etcd = await startEtcd(await etcdBinary(), file('etcd'));
  stack.defer(() => etcd.program.kill());
  const ownFlags: Flags = {
    ...(withNodes ? {} : { 'disable-admission-plugins': 'ServiceAccount' }),
    ...(audit ? await auditFlags(folder) : {}),
  };
  const apiServer = stack.use(
    await createApiServer({
      binary: (nodeBinaries ?? binaries)['kube-apiserver'],
      authority,
      etcdUrl: etcd.url,
      folder,
      flags: { ...ownFlags, ...apiServerFlags },
    }),
  );
  stack.defer(() => apiServer.program.kill());
  await apiServer.start();
  const { url, admin } = apiServer;

  let kubeconfigs = 0;
  const kubeconfigOf: Kubernetes['writeKubeconfig'] = ({ server = url, ...rest }) => {
    kubeconfigs += 1;
    return writeKubeconfig(file(`kubeconfig-${kubeconfigs}`), { server, caFile: authority.certFile, ...rest });
  };
  const user = async (name: string, groups: readonly string[] = []) => {
    const { certFile, keyFile } = await authority.issue({ commonName: name, organizations: groups });
    return kubeconfigOf({ user: { 'client-certificate': certFile, 'client-key': keyFile } });
  };
  const kubeconfig = await user('admin', ['system:masters']);

  const controllers: Program[] = [];
  const nodes: KubernetesNode[] = [];
  stack.defer(async () => {
    // Before the engines: these would start again what those end.
    await Promise.all([...controllers, ...nodes.map(({ kubelet }) => kubelet)].map((program) => program.kill()));
  });
  if (nodeBinaries) {
    controllers.push(...(await makeControllers(nodeBinaries, { authority, apiServer, user })));
    const starting = nodeNames.map(async (name, index) => {
      const dockerd = await engines[index];
      if (!dockerd) throw new Error(`node ${name} has no engine`);
      nodes[index] = await startNode({ binary: nodeBinaries.kubelet, name, dockerd, server: url, authority, admin });
    });
    const outcomes = await Promise.allSettled([...controllers.map((program) => program.start()), ...starting]);
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    // Without it the first pods would be refused.
    await until(
      'namespace default has its service account',
      async () => (await admin.request('GET', '/api/v1/namespaces/default/serviceaccounts/default')).status === 200,
    );
  }

  const restart = async (programs: readonly Program[]) => {
    await Promise.all(programs.map((program) => program.kill()));
    await Promise.all(programs.map((program) => program.start()));
  };
  const started = stack.move();
  return {
    url,
    folder,
    kubeconfig,
    caFile: authority.certFile,
    ca: authority.cert,
    nodes,
    async kubectl(args, { input, kubeconfig: given = kubeconfig, timeoutMs } = {}) {
      const global = ['--kubeconfig', given, '--cache-dir', file('kubectl-cache')];
      const outcome = await run([kubectl, ...global, ...args], { input, timeoutMs });
      if (outcome.code === 0) return outcome.stdout;
      throw new Error(`kubectl ${args.join(' ')}: ${outcome.signal ?? outcome.code}: ${outcome.stderr.trim()}`);
    },
    request: admin.request,
    user,
    writeKubeconfig: kubeconfigOf,
    serviceAccount: (namespace, name) =>
      serviceAccountFiles({ admin, ca: authority.cert, folder: file(`account-${namespace}-${name}`), namespace, name }),
    certificate: authority.issue,
    get apiServer() {
      return apiServer.program;
    },
    async stopApiServer() {
      await apiServer.program.stop();
    },
    killApiServer: () => apiServer.program.kill(),
    startApiServer: (flags) => apiServer.start(flags && { ...ownFlags, ...flags }),
    etcdSnapshot: etcd.snapshot,
    async etcdRestore(snapshot) {
      await apiServer.program.kill();
      await etcd.restore(snapshot);
      await apiServer.start();
      await restart([...controllers, ...nodes.map(({ kubelet }) => kubelet)]);
    },
    compact: etcd.compact,
    async expireRevisions() {
      await apiServer.program.kill();
      await etcd.compact();
      await apiServer.start();
    },
    audit: () => readAudit(folder),
    [Symbol.asyncDispose]: () => started.disposeAsync(),
  };
}

interface ControllerOptions {
  readonly authority: CertificateAuthority;
  readonly apiServer: ApiServer;
  readonly user: (name: string) => Promise<string>;
}

/** The programs that make pods of what users write, and say where they run. They do not run yet. */
async function makeControllers(
  binaries: Readonly<Record<'kube-controller-manager' | 'kube-scheduler', string>>,
  { authority, apiServer, user }: ControllerOptions,
): Promise<Program[]> {
  // They serve nothing, and each is the only one.
  const quiet: Flags = { 'leader-elect': 'false', port: '0', 'secure-port': '0' };
  const managerFlags = flagArguments({
    ...quiet,
    kubeconfig: await user('system:kube-controller-manager'),
    'service-account-private-key-file': apiServer.serviceAccountKeyFile,
    'root-ca-file': authority.certFile,
    // Each controller has the rights of an account of its own.
    'use-service-account-credentials': 'true',
  });
  const schedulerFlags = flagArguments({ ...quiet, kubeconfig: await user('system:kube-scheduler') });
  return [
    new Program({ command: [binaries['kube-controller-manager'], ...managerFlags] }),
    new Program({ command: [binaries['kube-scheduler'], ...schedulerFlags] }),
  ];
}

/** Those that started; what became of the others is said elsewhere. */
async function endAll(engines: readonly PromiseSettledResult<TestDockerd>[]): Promise<void> {
  await Promise.all(
    engines.map((outcome) => (outcome.status === 'fulfilled' ? outcome.value[Symbol.asyncDispose]() : undefined)),
  );
}
