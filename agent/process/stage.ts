import type { AgentConfig } from '../config.ts';

/**
 * What a process of the agent is there for, when another one began it: `warming`, with the flags of a lean one, to fill the cache, which is good for
 * these flags only; `lean`, with the cache filled; `proving`, beside an agent, to ask the control plane's API for credentials, and to end.
 */
const stages = ['warming', 'lean', 'proving'] as const;
export type Stage = (typeof stages)[number];

const stageVariable = 'BAYKEEPER_AGENT_STAGE';
const configVariable = 'BAYKEEPER_AGENT_CONFIG';

/** Undefined: somebody else began it. */
export function stageOf(env: NodeJS.ProcessEnv): Stage | undefined {
  const stage = stages.find((one) => one === env[stageVariable]);
  return stage === 'proving' || env[configVariable] !== undefined ? stage : undefined;
}

export const configOf = (env: NodeJS.ProcessEnv): AgentConfig => JSON.parse(env[configVariable] ?? '') as AgentConfig;

/** What such a process has in its environment. */
export const asStage = (stage: Stage, config?: AgentConfig): NodeJS.ProcessEnv => ({
  [stageVariable]: stage,
  ...(config && { [configVariable]: JSON.stringify(config) }),
});
