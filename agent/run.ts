import { startAgent } from './agent.ts';
import { systemClock } from './clock.ts';
import type { AgentConfig } from './config.ts';
import { openIdentity } from './link/identity.ts';
import { proveApart } from './link/prove_apart.ts';
import { lockFolder } from './lock.ts';
import { createLog } from './log.ts';
import { PolicyFile } from './policy_file.ts';
import { trimWhenQuiet } from './process/trim.ts';

/** How long a clean end may take before the process ends anyhow. */
const stopPatienceMs = 10_000;

/** Runs the agent until SIGTERM or SIGINT. Rejects when it cannot start. */
export async function runAgent(config: AgentConfig, agentVersion: string): Promise<void> {
  const log = createLog(config.logLevel);
  const unlock = await lockFolder(config.dataDir);
  // Nothing else may hold the process: it can be without connection and without engine.
  const keepAlive = setInterval(() => undefined, 2 ** 30);
  try {
    const { dataDir, policyFile: path } = config;
    const policy = await PolicyFile.open({ path, dataDir, clock: systemClock, log });
    const identity = await openIdentity(dataDir);
    const { server } = config;
    // A machine that has not joined must not look as if it had.
    const moved = server !== undefined && identity.node !== undefined && server !== identity.server;
    if (moved) {
      log.info({ from: identity.server, to: server }, 'the control plane has another URL');
      await identity.enrolledAt(server);
    }
    const { loadWorkloads } = await import('./workloads.ts');
    const createWorkloads = await loadWorkloads(config, identity.node?.containerEngine);
    const stopped = untilAsked(log);
    const stopping = new AbortController();
    const agent = await startAgent({
      dataDir,
      identity,
      policy,
      createWorkloads,
      prove: () => proveApart(identity, stopping.signal),
      moved,
      agentVersion,
      clock: systemClock,
      log,
    });
    const endTrimming = trimWhenQuiet();
    const signal = await stopped;
    endTrimming();
    log.info({ signal }, 'stopping; what runs on the engine stays');
    setTimeout(() => process.exit(1), stopPatienceMs).unref();
    stopping.abort();
    await agent.stop();
    policy.close();
  } finally {
    clearInterval(keepAlive);
    await unlock();
  }
}

/** Resolves with the signal that asks for the end. What nobody caught ends the process at once, and is logged. */
function untilAsked(log: ReturnType<typeof createLog>): Promise<string> {
  process.on('uncaughtException', (error) => {
    log.error({ error: error.stack ?? String(error) }, 'uncaught: the agent ends, and is to be started again');
    process.exit(70);
  });
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
  });
}
