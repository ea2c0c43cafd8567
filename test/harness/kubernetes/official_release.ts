import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { pipeline } from 'node:stream/promises';
import { Interrupted, run, SetupError } from '../../../deploy/quickstart/process.mjs';
import { nodePrograms, officialVersion } from './binaries.ts';

/** SHA-512 of kubernetes-server-linux-ARCH.tar.gz, as said in Kubernetes' CHANGELOG-1.20.md. */
const digests: Partial<Record<string, string>> = {
  amd64:
    '37738bc8430b0832f32c6d13cdd68c376417270568cd9b31a1ff37e96cfebcc1e2970c72bed588f626e35ed8273671c77200f0d164e67809b5626a2a99e3c5f5',
  arm64:
    '59331e2fe845ddda8c00c4c4ac6e3b4a95eea7467a7b922fb8e97ce407b8930752ebe2dc68e5f461a96086d205fabb718ec2059874683b581fc193fa6932fea0',
};
const architectures: Partial<Record<NodeJS.Architecture, string>> = { x64: 'amd64', arm64: 'arm64' };

export interface OfficialRelease {
  readonly url: string;
  /** SHA-512, in hexadecimal digits. */
  readonly digest: string;
}

/** The release for this machine; undefined when its kind of processor has none that we know the digest of. */
export function officialRelease(): OfficialRelease | undefined {
  const architecture = architectures[process.arch] ?? '';
  const digest = digests[architecture];
  if (!digest) return undefined;
  return { url: `https://dl.k8s.io/v${officialVersion}/kubernetes-server-linux-${architecture}.tar.gz`, digest };
}

/** Whether it can be had from here. Says no after 10 s at the latest, whatever holds up the answer. */
export async function canReach(release: OfficialRelease, logFile: string): Promise<boolean> {
  const args = ['--head', '--fail', '--location', '--silent', '--show-error', '--connect-timeout', '5', '--max-time'];
  return run('curl', [...args, '10', release.url], { logFile, failure: 'not within reach' }).then(
    () => true,
    (error: unknown) => {
      if (error instanceof Interrupted || !(error instanceof SetupError)) throw error;
      return false;
    },
  );
}

/**
 * Downloads the release and unpacks its programs into `folder`/bin, which it resolves with. Throws SetupError when it stalls for 30 s, breaks off, or
 * is not what it should be.
 */
export async function downloadRelease(release: OfficialRelease, folder: string, logFile: string): Promise<string> {
  const archive = path.join(folder, path.basename(release.url));
  const stalled = ['--connect-timeout', '5', '--speed-limit', '1000', '--speed-time', '30'];
  await run(
    'curl',
    ['--fail', '--location', '--silent', '--show-error', ...stalled, '--output', archive, release.url],
    {
      logFile,
      failure: `${release.url} could not be downloaded`,
    },
  );
  const digest = createHash('sha512');
  await pipeline(createReadStream(archive), digest);
  const found = digest.digest('hex');
  if (found !== release.digest)
    throw new SetupError(
      `${release.url} is not what it should be: its SHA-512 is ${found}, expected ${release.digest}`,
    );
  const bin = path.join(folder, 'bin');
  await mkdir(bin);
  const members = nodePrograms.map((name) => `kubernetes/server/bin/${name}`);
  await run('tar', ['--extract', '--file', archive, '--directory', bin, '--strip-components=3', ...members], {
    logFile,
    failure: `${archive} could not be unpacked`,
  });
  return bin;
}
