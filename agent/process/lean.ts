import { enableCompileCache, flushCompileCache } from 'node:module';
import { join } from 'node:path';
import type { AgentConfig } from '../config.ts';
import { reportFailure } from '../failure.ts';
import { isOfCluster } from '../node_file.ts';
import { asStage, configOf, type Stage, stageOf } from './stage.ts';

/**
 * An agent is small beside what it looks after: within 70 MB, of which Node.js itself takes 45. Left alone it takes 110, because Node.js
 * keeps the compiler that strips TypeScript's types once it was used, V8 optimises what runs once, and the heap grows generously. So the
 * agent begins again in the same process (the process id stays): with a compile cache in its data folder, without the optimising
 * compilers, and with a tight heap, which it may have cleaned (trim.ts). An agent mostly waits; what it does with much data (checksums,
 * copying) is native code. A SIGUSR1 opens no debugger to all users of the machine.
 */
const common = ['--no-opt', '--expose-gc', '--disable-sigusr1'];
const flagsOfDocker = [
  '--no-maglev',
  '--max-semi-space-size=1',
  '--optimize-for-size',
  '--invocation-count-for-feedback-allocation=200',
];
/**
 * The agent of a cluster has 15 MB more, and a thousand objects to apply at once: V8's simpler optimising compiler, a young generation four times
 * as large, and code that is compiled for a first time sooner, take a third less of processor time for each of them. That it does not compile in
 * threads of its own spares what these would keep.
 */
const flagsOfKubernetes = [
  '--no-concurrent-recompilation',
  '--max-semi-space-size=4',
  '--initial-heap-size=16',
  '--heap-growing-percent=15',
  '--invocation-count-for-feedback-allocation=20',
];
const flagsOf = ({ dataDir }: AgentConfig): readonly string[] => [
  ...common,
  ...(isOfCluster(dataDir) ? flagsOfKubernetes : flagsOfDocker),
];
/** Whether this process was begun again, or beside an agent. */
export const hasStage = (): boolean => stageOf(process.env) !== undefined;

/** Replaces this process by one that runs lean, and does not return; returns when that cannot be done here. */
export function relaunchLean(config: AgentConfig): void {
  begin('warming', config);
}

/** What this process was begun for: the agent, or a proof beside it. */
export async function runStage(): Promise<void> {
  const stage = stageOf(process.env);
  if (stage === 'proving') return await (await import('../link/prove_apart.ts')).prove();
  const config = configOf(process.env);
  if (stage === 'warming') {
    enableCompileCache(join(config.dataDir, 'cache'));
    const [{ loadWorkloads, loadDeferred }, { readNode }] = await Promise.all([
      import('../workloads.ts'),
      import('../link/identity.ts'),
      import('../run.ts'),
      import('../version.ts'),
    ]);
    const engine = (await readNode(config.dataDir))?.containerEngine;
    await loadWorkloads(config, engine);
    if (strippedTypes()) {
      // What the agent may come to need, too: what is not in the cache brings the compiler back.
      await Promise.all([import('../link/enroll.ts'), loadDeferred(engine)]);
      flushCompileCache();
      begin('lean', config);
    }
  }
  const [{ runAgent }, { agentVersion }] = await Promise.all([import('../run.ts'), import('../version.ts')]);
  try {
    await runAgent(config, agentVersion());
  } catch (error) {
    reportFailure(error);
  }
}

function begin(stage: Stage, config: AgentConfig): void {
  if (typeof process.execve !== 'function') return;
  // A join token has done its work.
  const { BAYKEEPER_AGENT_TOKEN: _spent, ...rest } = process.env;
  const env = {
    ...rest,
    ...asStage(stage, config),
    NODE_COMPILE_CACHE: join(config.dataDir, 'cache'),
    // The threads that write files and look up names would each keep a heap of their own.
    MALLOC_ARENA_MAX: '1',
  };
  const flags = flagsOf(config);
  const kept = process.execArgv.filter((argument) => !flags.includes(argument));
  const command = [process.execPath, ...flags, ...kept, process.argv[1] ?? '', 'run'];
  // By way of a shell, as Node.js cannot set it: a core file would hold the agent's key.
  process.execve('/bin/sh', ['sh', '-c', 'ulimit -c 0; exec "$@"', 'sh', ...command], env);
}

/** Whether the compiler that strips types has been loaded into this process. */
function strippedTypes(): boolean {
  const { moduleLoadList } = process as unknown as { readonly moduleLoadList?: readonly string[] };
  return !moduleLoadList || moduleLoadList.some((name) => name.includes('amaro'));
}
