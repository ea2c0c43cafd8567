import type { NodeStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';
import type { Clock } from '../clock.ts';
import type { ClusterDriver } from '../drivers/cluster_driver.ts';
import { ClusterError } from '../drivers/cluster_error.ts';
import type { EngineInfo } from '../drivers/driver.ts';
import { type Finding, type HealthThresholds, NodeHealth, policyFinding } from '../health.ts';
import type { PolicySource } from '../policy.ts';
import type { DockerSide } from './containers_side.ts';
import { messageOf, reasonOf } from './reasons.ts';

export interface ClusterHealthOptions {
  readonly driver: ClusterDriver;
  readonly docker: DockerSide;
  readonly policy: PolicySource;
  readonly clock: Clock;
  readonly thresholds?: HealthThresholds;
}

/** What the agent knows at the moment besides. */
export interface ClusterHealthInput {
  /** What cannot be watched, as in paths, and why. Undefined: this agent does not lead, and watches nothing. */
  readonly watchProblems: ReadonlyMap<string, ClusterError> | undefined;
  readonly electionProblem: ClusterError | undefined;
  readonly containersRunning: number;
  readonly containersTotal: number;
}

/** A heartbeat does not wait for longer. */
const pingPatienceMs = 2_500;
/** What the API server says of itself is asked for again after so long: it may have been upgraded. */
const infoLifeMs = 600_000;
const dockerLifeMs = 60_000;

/** How the machine of an agent of a Kubernetes bay is, and whether its cluster can be used. */
export class ClusterHealth {
  readonly #options: ClusterHealthOptions;
  readonly #health: NodeHealth;
  #info: EngineInfo = { engine: 'kubernetes', version: '', apiVersion: 'v1', rootDir: '', os: '' };
  #infoMs = Number.NEGATIVE_INFINITY;
  #dockerVersion = '';
  #dockerMs = Number.NEGATIVE_INFINITY;

  constructor(options: ClusterHealthOptions) {
    this.#options = options;
    this.#health = new NodeHealth(options);
  }

  /** Never rejects: a cluster that is away is a condition. */
  async status(input: ClusterHealthInput): Promise<NodeStatus> {
    const [problem] = await Promise.all([this.#ping(), this.#lookForDocker()]);
    return await this.#health.status({
      info: this.#info,
      problem: problem && messageOf(problem),
      problemReason: problem && reasonOf(problem),
      containersRunning: input.containersRunning,
      containersTotal: input.containersTotal,
      dockerVersion: this.#dockerVersion,
      findings: [...findingsOf(input), policyFinding(this.#options.policy)],
    });
  }

  async #ping(): Promise<ClusterError | undefined> {
    const { driver, clock } = this.#options;
    const late = Promise.withResolvers<ClusterError>();
    const cancel = clock.after(pingPatienceMs, () =>
      late.resolve(new ClusterError('unavailable', `the API server at ${driver.target} does not answer`)),
    );
    const asked = driver.ping().then(
      () => this.#ask(),
      (error: unknown) => toClusterError(error),
    );
    return await Promise.race([asked, late.promise]).finally(cancel);
  }

  async #ask(): Promise<ClusterError | undefined> {
    const { driver, clock } = this.#options;
    if (clock.now() - this.#infoMs < infoLifeMs) return undefined;
    try {
      const { version } = await driver.info({ timeoutMs: pingPatienceMs });
      this.#info = { ...this.#info, version };
      this.#infoMs = clock.now();
      return undefined;
    } catch (error) {
      return toClusterError(error);
    }
  }

  async #lookForDocker(): Promise<void> {
    const { docker, clock } = this.#options;
    if (clock.now() - this.#dockerMs < dockerLifeMs) return;
    this.#dockerMs = clock.now();
    try {
      this.#dockerVersion = (await docker.isThere()) ? await docker.version() : '';
    } catch {
      // Containers cannot go there now.
      this.#dockerVersion = '';
    }
  }
}

const toClusterError = (error: unknown): ClusterError =>
  error instanceof ClusterError ? error : new ClusterError('other', (error as Error).message, { cause: error });

function findingsOf({ watchProblems, electionProblem }: ClusterHealthInput): Finding[] {
  const findings: Finding[] = watchProblems ? [watchFinding(watchProblems)] : [];
  if (electionProblem) {
    findings.push({
      type: 'LeaderElected',
      holds: undefined,
      reason: reasonOf(electionProblem),
      message: `the lease by which the bay's masters agree on who leads cannot be used: ${messageOf(electionProblem)}`,
    });
  }
  return findings;
}

function watchFinding(problems: ReadonlyMap<string, ClusterError>): Finding {
  const [[plural, problem] = []] = problems;
  if (!problem) return { type: 'ClusterWatched', holds: true, reason: 'Watching', message: '' };
  const others = problems.size > 1 ? ` and ${problems.size - 1} more` : '';
  const message = `${plural}${others} cannot be watched: ${messageOf(problem)}`;
  return { type: 'ClusterWatched', holds: false, reason: reasonOf(problem), message };
}
