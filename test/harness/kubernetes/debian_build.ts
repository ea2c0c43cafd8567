import { execFile } from 'node:child_process';
import { cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import {
  findProgram,
  type RunOptions,
  run,
  SetupError,
  systemEnvironment,
} from '../../../deploy/quickstart/process.mjs';
import { debianVersion, nodePrograms } from './binaries.ts';

/** Where Debian keeps the Go that it builds with, whatever other one is on PATH. */
const goFolder = '/usr/lib/go/bin';
const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg';
/** The suite whose source package `kubernetes` is of `debianVersion`. */
const suite = 'bookworm';

/** Throws SetupError, with what to do instead, where Kubernetes cannot be built from Debian's source. */
export async function checkDebian(): Promise<void> {
  const { ID } = await operatingSystem();
  if (ID === 'debian') return;
  throw new SetupError(
    `Kubernetes ${debianVersion} can be built from Debian's source, but this is ${ID || 'another system'}. Put ${nodePrograms.join(', ')} of version 1.20 into a folder, and name it in KUBEBUILDER_ASSETS.`,
  );
}

/**
 * Builds Kubernetes from Debian's source package with Debian's Go (needs the packages of `kubernetesBuild` in debian.mjs), all of it within
 * `folder`: neither the machine's sources of packages nor Go's cache change. Resolves with the folder of the programs.
 */
export async function buildFromDebian(folder: string, logFile: string): Promise<string> {
  const source = await downloadSource(folder, logFile);
  await mendSource(source);
  // Its makefile looks for itself where Go had projects in those days.
  const goPath = path.join(source, '.go');
  await mkdir(path.join(goPath, 'src', 'k8s.io'), { recursive: true });
  await symlink(source, path.join(goPath, 'src', 'k8s.io', 'kubernetes'));
  const what = nodePrograms.map((name) => `cmd/${name}`).join(' ');
  await run('nice', ['-n', '10', 'make', `WHAT=${what}`], {
    cwd: source,
    logFile,
    failure: `Kubernetes ${debianVersion} could not be built`,
    env: systemEnvironment({
      PATH: [goFolder, systemEnvironment().PATH].join(path.delimiter),
      GOPATH: goPath,
      GOCACHE: path.join(folder, 'go-build'),
      GOTMPDIR: folder,
      GOFLAGS: '-mod=vendor',
      GOTOOLCHAIN: 'local',
      CGO_ENABLED: '0',
    }),
  });
  const bin = path.join(folder, 'bin');
  await mkdir(bin);
  const { stdout } = await promisify(execFile)(path.join(goFolder, 'go'), ['env', 'GOARCH']);
  const built = path.join(source, '_output', 'local', 'bin', 'linux', stdout.trim());
  for (const name of nodePrograms) await cp(path.join(built, name), path.join(bin, name));
  return bin;
}

/** From the mirror that the machine uses, verified by apt against Debian's signature. Resolves with the folder of the unpacked source. */
async function downloadSource(folder: string, logFile: string): Promise<string> {
  const apt = path.join(folder, 'apt');
  for (const name of ['sources', 'lists/partial', 'cache/archives/partial', 'source'])
    await mkdir(path.join(apt, name), { recursive: true });
  const mirror = await debianMirror();
  await writeFile(
    path.join(apt, 'sources', 'kubernetes.sources'),
    `Types: deb-src\nURIs: ${mirror}\nSuites: ${suite}\nComponents: main\nSigned-By: ${keyring}\n`,
  );
  const options = [
    `Dir::Etc::SourceList=/dev/null`,
    `Dir::Etc::SourceParts=${path.join(apt, 'sources')}`,
    `Dir::State::Lists=${path.join(apt, 'lists')}`,
    `Dir::Cache=${path.join(apt, 'cache')}`,
    // The user that apt downloads as has no business in folders of ours.
    'APT::Sandbox::User=root',
    'Acquire::Languages=none',
    'Acquire::Retries=3',
  ].flatMap((option) => ['-o', option]);
  const runApt = (args: readonly string[], rest: Omit<RunOptions, 'logFile'>) =>
    run('apt-get', ['-q', ...options, ...args], {
      logFile,
      env: systemEnvironment({ DEBIAN_FRONTEND: 'noninteractive' }),
      ...rest,
    });
  const where = `Debian's source package of Kubernetes (${suite}, at ${mirror})`;
  await runApt(['update'], { failure: `${where} could not be looked up` });
  const cwd = path.join(apt, 'source');
  await runApt(['source', '--download-only', 'kubernetes'], { cwd, failure: `${where} could not be downloaded` });

  const archive = (await readdir(cwd)).find((name) => /^kubernetes_.*\.orig\.tar\.\w+$/.test(name));
  if (!archive?.includes(debianVersion)) {
    throw new SetupError(`${where} is not of version ${debianVersion}: ${archive ?? 'it holds no source'}.`);
  }
  const source = path.join(folder, 'source');
  await mkdir(source);
  const args = ['--extract', '--file', path.join(cwd, archive), '--directory', source, '--strip-components=1'];
  await run('tar', args, { logFile, failure: `${archive} could not be unpacked` });
  return source;
}

/** The address of the Debian archive that this machine's own packages come from. */
async function debianMirror(): Promise<string> {
  const { VERSION_CODENAME = suite } = await operatingSystem();
  const args = ['indextargets', '--no-release-info', '--format', '$(REPO_URI) $(RELEASE)'];
  const { stdout } = await promisify(execFile)(findProgram('apt-get') ?? 'apt-get', [
    ...args,
    'Created-By: Packages',
    'Component: main',
  ]);
  const releases = [VERSION_CODENAME, suite, 'stable', 'testing', 'unstable', 'sid'];
  const targets = stdout.split('\n').map((line) => line.split(' '));
  const found = releases.flatMap((name) => targets.find(([, release]) => release === name) ?? [])[0];
  return found ?? 'http://deb.debian.org/debian';
}

/** Mends what stands between this version and a cluster that tests can rely on. */
async function mendSource(source: string): Promise<void> {
  // Its own reflect2 walks maps wrongly on Go 1.18 and newer, and the API server crashes at random. Debian's is a newer one.
  const reflect2 = path.join(source, 'vendor', 'github.com', 'modern-go', 'reflect2');
  const newer = '/usr/share/gocode/src/github.com/modern-go/reflect2';
  await rm(reflect2, { recursive: true });
  await cp(newer, reflect2, { recursive: true, filter: (file) => !/(_test|unsafe_link_gccgo)\.go$/.test(file) });
  // Up to 1.20.2 a pod that is deleted may stay for another minute, until its sandbox is cleared away (kubernetes/kubernetes#97288).
  const pods = path.join(source, 'pkg', 'kubelet', 'kubelet_pods.go');
  const [check, text] = ['if len(runtimeStatus.SandboxStatuses) > 0 {', await readFile(pods, 'utf8')];
  if (!text.includes(check)) throw new SetupError(`${pods} is not as expected: it does not have "${check}".`);
  await writeFile(pods, text.replace(check, check.replace('if ', 'if false && ')));
}

async function operatingSystem(): Promise<Partial<Record<string, string>>> {
  const text = await readFile('/etc/os-release', 'utf8').catch(() => '');
  return Object.fromEntries(
    text.split('\n').flatMap((line) => {
      const [, name = '', value = ''] = /^(\w+)="?(.*?)"?$/.exec(line) ?? [];
      return name ? [[name, value]] : [];
    }),
  );
}
