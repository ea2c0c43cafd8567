import { execFile } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { promisify } from 'node:util';

/** Programs of Kubernetes that a control plane needs, and kubectl. */
export const controlPlanePrograms = ['kube-apiserver', 'kubectl'] as const;
/** With these, pods run. */
export const nodePrograms = [...controlPlanePrograms, 'kube-controller-manager', 'kube-scheduler', 'kubelet'] as const;
export type KubernetesProgram = (typeof nodePrograms)[number];

/** Paths of programs, all of them of one place and so of one version. */
export type Binaries<Name extends string = KubernetesProgram> = Readonly<Record<Name, string>>;

/** Official binaries are of this version: a patch release of what Debian has the source of, so that both behave the same. */
export const officialVersion = '1.20.4';
/** What Debian 12's source package `kubernetes` holds: the last one that carries the whole tree. */
export const debianVersion = '1.20.2';

/** The programs of this machine, for every checkout of this user: `$XDG_CACHE_HOME/baykeeper`, by default `~/.cache/baykeeper`. */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  const { XDG_CACHE_HOME: given } = environment;
  // Relative ones are to be ignored, says the XDG base directory specification.
  const cache = given && path.isAbsolute(given) ? given : path.join(homedir(), '.cache');
  return path.join(cache, 'baykeeper');
}

/** Where a version of Kubernetes is kept. A folder of this name is complete. */
export const versionFolder = (cache: string, version: string): string => path.join(cache, `kubernetes-${version}`);

/**
 * Looks for programs of Kubernetes, in this order: `KUBEBUILDER_ASSETS`, `PATH`, what set-up has kept. All come from the first place that
 * has them all: of different versions they need not work together. Undefined: no place has.
 */
export async function findKubernetes<Name extends KubernetesProgram>(
  names: readonly Name[],
  environment: NodeJS.ProcessEnv = process.env,
): Promise<Binaries<Name> | undefined> {
  const cache = cacheFolder(environment);
  const kept = [officialVersion, debianVersion].map((version) => versionFolder(cache, version));
  for (const folders of [...foreignPlaces(environment), ...kept.map((folder) => [folder])]) {
    const found = await findIn(folders, names);
    if (found && (await canUseDocker(found.kubelet))) return found as Binaries<Name>;
  }
  return undefined;
}

/** Like `findKubernetes`, but throws what to do when there are none. */
export async function kubernetesBinaries<Name extends KubernetesProgram>(
  names: readonly Name[],
): Promise<Binaries<Name>> {
  const found = await findKubernetes(names);
  if (found) return found;
  throw new Error(
    `${names.join(', ')}: not in KUBEBUILDER_ASSETS, on PATH or in ${cacheFolder()}. Set-up brings them: npm run setup`,
  );
}

/** The path of etcd: of `KUBEBUILDER_ASSETS`, or `PATH`. Throws when there is none. */
export async function etcdBinary(environment: NodeJS.ProcessEnv = process.env): Promise<string> {
  for (const folders of foreignPlaces(environment)) {
    const found = await findIn(folders, ['etcd']);
    if (found?.etcd) return found.etcd;
  }
  throw new Error('etcd: neither in KUBEBUILDER_ASSETS nor on PATH. Set-up brings it: npm run setup');
}

/** What is not ours to fill. */
function foreignPlaces(environment: NodeJS.ProcessEnv): readonly (readonly string[])[] {
  const { KUBEBUILDER_ASSETS: assets, PATH: paths = '' } = environment;
  return [assets ? [assets] : [], paths.split(path.delimiter).filter(Boolean)];
}

async function findIn(
  folders: readonly string[],
  names: readonly string[],
): Promise<Partial<Record<string, string>> | undefined> {
  const found: Record<string, string> = {};
  for (const name of names) {
    for (const folder of folders) {
      const file = path.resolve(folder, name);
      if (found[name] === undefined && (await isExecutable(file))) found[name] = file;
    }
    if (found[name] === undefined) return undefined;
  }
  return found;
}

async function isExecutable(file: string): Promise<boolean> {
  return access(file, constants.X_OK).then(
    () => true,
    () => false,
  );
}

/** Kubelets from 1.24 on have no use for a Docker engine, which is what our nodes have. */
async function canUseDocker(kubelet: string | undefined): Promise<boolean> {
  if (kubelet === undefined) return true;
  const { stdout } = await promisify(execFile)(kubelet, ['--version']);
  const minor = /v1\.(\d+)\./.exec(stdout)?.[1];
  return minor !== undefined && Number(minor) < 24;
}
