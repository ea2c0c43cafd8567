import { randomBytes } from 'node:crypto';
import { cp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import test from 'ava';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { type Site, startSite } from '../harness/site.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { until } from '../harness/until.ts';

/*
 * Rubbish in every file on disk. A program that finds it either goes on as it should, or ends with one sentence that names the file; in no
 * case does a container go that nobody deleted.
 */

let site: Site;
test.before(async () => {
  site = await startSite({ args: ['--heartbeat', '1s'] });
  await site.controlPlane.client(ContainerService).createContainer({
    container: {
      metadata: { bay: 'local', name: 'kept' },
      spec: { image: site.image, args: ['sleep', '10000'], stopTimeout: { seconds: 0n } },
    },
  });
  await site.inPhase('kept', ContainerPhase.RUNNING);
});
test.after.always(async () => site?.[Symbol.asyncDispose]());

/** The files in a folder and those below it. */
async function filesIn(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
}

const damages: Record<string, (file: string) => Promise<void>> = {
  rubbish: async (file) => writeFile(file, randomBytes(512)),
  emptiness: async (file) => writeFile(file, ''),
  'half of it': async (file) => {
    const whole = await readFile(file);
    await writeFile(file, whole.subarray(0, whole.length / 2));
  },
};

const node = async () =>
  (await site.controlPlane.client(NodeService).getNode({ bay: 'local', name: 'node-1' })).node?.status;

/** Resolves when the agent is in a session newer than `epoch`, and has what it should have. */
async function inNewSession(epoch: bigint): Promise<void> {
  await until(
    'a new session is up to date',
    async () => {
      const status = await node();
      if (!status || status.phase !== NodePhase.READY) return false;
      return (
        status.sessionEpoch > epoch && status.appliedRevision > 0n && status.appliedRevision === status.assignedRevision
      );
    },
    { timeoutMs: 60_000 },
  );
  await site.inPhase('kept', ContainerPhase.RUNNING);
}

/** What runs on the engine, and since when. */
async function engine(): Promise<string> {
  const { Id, State } = await site.dockerd.docker.getContainer('kept').inspect();
  return `${Id} ${State.StartedAt} ${State.Running}`;
}

/** Waits for a program that either serves or ends. Its last words when it ended. */
async function served(
  works: () => Promise<void>,
  ended: Promise<unknown>,
  output: () => string,
): Promise<string | undefined> {
  const outcome = await Promise.race([works().then(() => 'works' as const), ended.then(() => 'ended' as const)]);
  return outcome === 'works' ? undefined : output();
}

for (const [damage, make] of Object.entries(damages)) {
  test.serial(`${damage} in each file of the agent`, async (t) => {
    t.timeout(300_000);
    const { agent } = site;
    const before = await engine();
    await agent.stop();
    await using good = await temporaryFolder('good-agent');
    await cp(agent.dataDir, good.path, { recursive: true });
    const names = (await filesIn(agent.dataDir))
      .map((file) => path.relative(agent.dataDir, file))
      .filter((name) => !name.startsWith('cache'));
    t.true(names.length >= 3, names.join());
    for (const name of names) {
      await make(path.join(agent.dataDir, name));
      const from = agent.program.output.length;
      const epoch = (await node())?.sessionEpoch ?? 0n;
      await agent.start();
      const last = await served(
        () => inNewSession(epoch),
        agent.program.exit,
        () => agent.program.output.slice(from),
      );
      if (last !== undefined) {
        t.regex(last, new RegExp(name.replaceAll('.', '\\.')), `it names the file ${name}`);
        t.notRegex(last, /^\s+at /m, `no stack trace for ${name}`);
      }
      await agent.stop();
      t.is(await engine(), before, `after ${damage} in ${name}`);
      await rm(agent.dataDir, { recursive: true });
      await cp(good.path, agent.dataDir, { recursive: true });
    }
    await agent.start();
    await agent.ready();
    t.is(await engine(), before);
  });

  test.serial(`${damage} in each file of the control plane`, async (t) => {
    t.timeout(600_000);
    const { controlPlane } = site;
    const before = await engine();
    await controlPlane.stop();
    await using good = await temporaryFolder('good-control-plane');
    await cp(controlPlane.dataDir, good.path, { recursive: true });
    const names = (await filesIn(controlPlane.dataDir))
      .map((file) => path.relative(controlPlane.dataDir, file))
      .filter((name) => !name.startsWith('cache') && !name.endsWith('.log'));
    t.true(names.some((name) => name === 'store.db'));
    for (const name of names) {
      if ((await stat(path.join(controlPlane.dataDir, name))).size === 0) continue;
      await make(path.join(controlPlane.dataDir, name));
      const failed = await controlPlane.start().then(
        () => undefined,
        (error: Error) => error.message,
      );
      // A new admin token is what it makes where there is none: the one that we have is no longer it, and all else is as it was.
      if (failed !== undefined) {
        t.regex(failed, new RegExp(path.basename(name).replaceAll('.', '\\.')), `it names the file ${name}`);
        t.notRegex(failed, /^\s+at /m, `no stack trace for ${name}`);
      }
      await controlPlane.stop();
      t.is(await engine(), before, `after ${damage} in ${name}`);
      await rm(controlPlane.dataDir, { recursive: true });
      await cp(good.path, controlPlane.dataDir, { recursive: true });
    }
    await controlPlane.start();
    await site.inPhase('kept', ContainerPhase.RUNNING, 60_000);
    t.is(await engine(), before);
  });
}
