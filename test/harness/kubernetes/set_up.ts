import { mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { installDebianPackages, missingDebianPackages } from '../../../deploy/quickstart/debian.mjs';
import { withLock } from '../../../deploy/quickstart/lock.mjs';
import { cacheFolder as checkoutCache } from '../../../deploy/quickstart/packages.mjs';
import { Interrupted, SetupError, step } from '../../../deploy/quickstart/process.mjs';
import { root, runMain } from '../../../deploy/quickstart/setup.mjs';
import {
  cacheFolder,
  controlPlanePrograms,
  debianVersion,
  findKubernetes,
  nodePrograms,
  officialVersion,
  versionFolder,
} from './binaries.ts';
import { buildFromDebian, checkDebian } from './debian_build.ts';
import { canReach, downloadRelease, officialRelease } from './official_release.ts';

/**
 * Brings the programs of Kubernetes that tests run: `node test/harness/kubernetes/set_up.ts`. Does nothing, and says nothing, when they are there.
 * Else takes the official ones where they can be downloaded, and builds them from Debian's source where not. They are kept for every
 * checkout of the user; what is interrupted leaves nothing that would be taken for whole.
 */

/** Longer than the slowest machine builds. */
const lockTimeoutMs = 60 * 60_000;

async function bringKubernetes(say: (text: string) => void): Promise<void> {
  if (await isThere()) return;
  const cache = cacheFolder();
  const waiting = { say, waitingFor: 'another set-up of Kubernetes', timeoutMs: lockTimeoutMs };
  await withLock(path.join(cache, 'kubernetes.lock'), waiting, async () => {
    if (await isThere()) return;
    const logFile = path.join(checkoutCache(root), 'setup.log');
    if (await download(cache, logFile, say)) return;
    await build(cache, logFile, say);
  });
}

async function isThere(): Promise<boolean> {
  const [forControlPlane, forNodes] = await Promise.all([
    findKubernetes(controlPlanePrograms),
    findKubernetes(nodePrograms),
  ]);
  return forControlPlane !== undefined && forNodes !== undefined;
}

/** Whether it could be had. */
async function download(cache: string, logFile: string, say: (text: string) => void): Promise<boolean> {
  const release = officialRelease();
  if (!release || !(await canReach(release, logFile))) return false;
  try {
    await step(say, `Downloading Kubernetes ${officialVersion} (300 MB, once)`, () =>
      keep(versionFolder(cache, officialVersion), (folder) => downloadRelease(release, folder, logFile)),
    );
    return true;
  } catch (error) {
    if (error instanceof Interrupted || !(error instanceof SetupError)) throw error;
    say(error.message);
    return false;
  }
}

async function build(cache: string, logFile: string, say: (text: string) => void): Promise<void> {
  await checkDebian();
  await installDebianPackages(await missingDebianPackages(['kubernetesBuild']), { say, logFile });
  await step(say, `Building Kubernetes ${debianVersion} from Debian's source (about 5 minutes, once)`, () =>
    keep(versionFolder(cache, debianVersion), (folder) => buildFromDebian(folder, logFile)),
  );
}

/** Has `make` fill a folder beside `folder`, and gives it that name when all is in it. Under the lock: nobody else is at it. */
async function keep(folder: string, make: (workFolder: string) => Promise<string>): Promise<void> {
  const work = `${folder}.partial`;
  const remove = () => rm(work, { recursive: true, force: true });
  // Of one that was killed.
  await remove();
  await mkdir(work, { recursive: true });
  try {
    const made = await make(work);
    await rm(folder, { recursive: true, force: true });
    await rename(made, folder);
  } finally {
    await remove();
  }
}

await runMain(async () => {
  await bringKubernetes((text) => process.stdout.write(`${text}\n`));
  return 0;
});
