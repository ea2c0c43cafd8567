import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { startDockerd, type TestDockerd } from '../dockerd.ts';

/** The image with busybox in it that every node has. */
export const image = 'busybox:test';
/** Of the container that holds a pod's network. */
export const pauseImage = 'pause:test';

/** An engine for a node, with the images that it needs. `folder`: for its files, removed by the caller. */
export async function startNodeEngine(folder: string): Promise<TestDockerd> {
  await mkdir(folder, { recursive: true });
  const dockerd = await startDockerd({ config: await engineConfig(folder) });
  try {
    await dockerd.importBusybox(image);
    await dockerd.importBusybox(
      pauseImage,
      `ENTRYPOINT ["sh", "-c", "trap exit TERM INT; while :; do sleep 3600 & wait; done"]`,
    );
  } catch (error) {
    await dockerd[Symbol.asyncDispose]();
    throw error;
  }
  return dockerd;
}

/** Where this machine withholds the right to lower oom_score_adj, which kubelet wants for its pods, the engine's runc leaves that out. */
async function engineConfig(folder: string): Promise<object> {
  const config = { 'exec-opts': ['native.cgroupdriver=cgroupfs'] };
  if (await mayLowerOomScore()) return config;
  const wrapper = path.join(folder, 'runc');
  await writeFile(wrapper, runcWithoutOomScore);
  await chmod(wrapper, 0o755);
  return { ...config, 'default-runtime': 'plain', runtimes: { plain: { path: wrapper } } };
}

const runcWithoutOomScore = `#!/bin/sh
previous=
for argument; do
  if [ "$previous" = --bundle ]; then sed -i 's/"oomScoreAdj":-[0-9]*/"oomScoreAdj":0/' "$argument/config.json"; fi
  previous=$argument
done
exec runc "$@"
`;

/** Whether we have CAP_SYS_RESOURCE. */
async function mayLowerOomScore(): Promise<boolean> {
  const status = await readFile(`/proc/${process.pid}/status`, 'utf8');
  const effective = BigInt(`0x${/^CapEff:\s*(\w+)$/m.exec(status)?.[1] ?? '0'}`);
  return (effective & (1n << 24n)) !== 0n;
}
