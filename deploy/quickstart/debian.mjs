import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { findProgram, Interrupted, run, SetupError, step, succeeds, systemEnvironment } from './process.mjs';

/**
 * What set-up may need of the machine, and the Debian packages that bring it. `present` is asked of the machine at each start, so
 * that a program which came another way is as good.
 */
const needs = {
  compiler: {
    packages: ['build-essential', 'python3'],
    present: () => Boolean(findProgram('g++') && findProgram('make') && findProgram('python3')),
  },
  broker: { packages: ['nats-server'], present: () => Boolean(findProgram('nats-server')) },
  engine: {
    packages: ['docker.io', 'iptables'],
    present: () => Boolean(findProgram('dockerd') && findProgram('iptables')),
  },
  busybox: { packages: ['busybox-static'], present: () => succeeds('dpkg', ['-s', 'busybox-static']) },
  loadGenerator: { packages: ['nghttp2-client'], present: () => Boolean(findProgram('h2load')) },
  // What only tests use: a client, a registry of images, a wrong clock, and networks for engines of their own.
  curl: {
    packages: ['curl', 'docker-registry', 'faketime', 'iproute2'],
    present: () => ['curl', 'docker-registry', 'faketime', 'ip'].every((name) => Boolean(findProgram(name))),
  },
  // Beside what test/harness/kubernetes/set_up.ts brings, which builds it where it cannot be downloaded.
  kubernetes: {
    packages: ['etcd-server', 'openssl'],
    present: () => {
      const { KUBEBUILDER_ASSETS: assets } = process.env;
      return Boolean((findProgram('etcd') || (assets && existsSync(`${assets}/etcd`))) && findProgram('openssl'));
    },
  },
  // The libraries and bare programs alone: the packages `keystone` and `mariadb-server` would make users, databases and services.
  keystone: {
    packages: [
      ...['python3-keystone', 'uwsgi-core', 'uwsgi-plugin-python3', 'mariadb-server-core', 'mariadb-client-core'],
      ...['memcached', 'python3-memcache', 'python3-pymysql'],
    ],
    present: () =>
      ['keystone-manage', 'mariadbd', 'mariadb-install-db', 'mariadb', 'memcached'].every((name) =>
        findProgram(name),
      ) &&
      ['keystone', 'memcache.py', 'pymysql'].every((name) => existsSync(`/usr/lib/python3/dist-packages/${name}`)) &&
      Boolean(findProgram('uwsgi-core') && existsSync('/usr/lib/uwsgi/plugins/python3_plugin.so')),
  },
  kubernetesBuild: {
    packages: ['golang-go', 'golang-github-modern-go-reflect2-dev', 'make', 'rsync', 'jq', 'git'],
    present: () =>
      ['/usr/lib/go/bin/go', '/usr/share/gocode/src/github.com/modern-go/reflect2'].every(existsSync) &&
      ['make', 'rsync', 'jq', 'git'].every((name) => Boolean(findProgram(name))),
  },
};

/** The Debian packages that are wanted and missing. */
export async function missingDebianPackages(wanted) {
  const missing = [];
  for (const name of wanted) {
    if (!(await needs[name].present())) missing.push(...needs[name].packages);
  }
  return missing;
}

/** Throws SetupError when this machine or this user cannot have them installed. */
export function checkDebianPackages(packages) {
  if (packages.length === 0) return;
  const list = packages.join(' ');
  if (!findProgram('apt-get')) {
    throw new SetupError(
      `This machine lacks what Debian calls ${list}. It is not a Debian or Ubuntu, so please install that yourself and start again.`,
    );
  }
  if (process.getuid() !== 0) {
    throw new SetupError(
      `This machine lacks ${list}, and only root may install it. Run this once, then start again:\n  sudo apt-get install -y --no-install-recommends ${list}`,
    );
  }
}

/** Installs Debian packages. Throws SetupError when it may not or cannot. */
export async function installDebianPackages(packages, { say, logFile }) {
  if (packages.length === 0) return;
  checkDebianPackages(packages);
  const list = packages.join(' ');
  const services = Object.entries({
    'nats-server': 'nats-server',
    'docker-registry': 'docker-registry',
    'etcd-server': 'etcd',
    memcached: 'memcached',
  });
  // One that is installed already is the user's, and stays as it is.
  const fresh = [];
  for (const [name, service] of services) {
    if (packages.includes(name) && !(await succeeds('dpkg', ['-s', name]))) fresh.push(service);
  }
  await step(say, `Installing ${list} from Debian`, async () => {
    const env = systemEnvironment({
      DEBIAN_FRONTEND: 'noninteractive',
      APT_LISTCHANGES_FRONTEND: 'none',
      NEEDRESTART_MODE: 'l',
    });
    const apt = findProgram('apt-get');
    const options = [
      '-q',
      '-o',
      'DPkg::Lock::Timeout=300',
      '-o',
      'Dpkg::Options::=--force-confold',
      '-o',
      'Acquire::Retries=3',
    ];
    // Lists that cannot be refreshed may still do.
    await run(apt, [...options, 'update'], { logFile, env, failure: 'apt-get update failed' }).catch((error) => {
      if (error instanceof Interrupted || !aptListsExist()) throw error;
    });
    const install = () =>
      run(apt, [...options, 'install', '-y', '--no-install-recommends', ...packages], {
        logFile,
        env,
        failure: `Debian could not install ${list}`,
        whole: true,
      });
    await (fresh.length > 0 ? withoutStartingServices(install) : install());
    if (fresh.length > 0 && existsSync('/run/systemd/system'))
      await succeeds('systemctl', ['disable', '--now', ...fresh]);
  });
}

const policyFile = '/usr/sbin/policy-rc.d';
const policyMark = '# Made by the set-up of Baykeeper, which removes it.';

/**
 * Debian's packages start servers of their own when they are installed, open to every address and without any rule. Only the programs are wanted
 * here. A policy that is there already is somebody else's, and rules; ours is void when this process has ended without removing it.
 */
async function withoutStartingServices(install) {
  const made = !existsSync(policyFile) || readFileSync(policyFile, 'utf8').includes(policyMark);
  if (made) {
    const text = `#!/bin/sh\n${policyMark}\n[ -d /proc/${process.pid} ] && exit 101\nexit 0\n`;
    writeFileSync(policyFile, text);
    chmodSync(policyFile, 0o755);
  }
  try {
    await install();
  } finally {
    if (made) rmSync(policyFile, { force: true });
  }
}

function aptListsExist() {
  try {
    return readdirSync('/var/lib/apt/lists').some((name) => name.endsWith('_Packages') || name.includes('_Packages.'));
  } catch {
    return false;
  }
}
