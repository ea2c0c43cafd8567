import type { JsonValue } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { parseDuration } from '../args.ts';
import { awaitObject, type Wanted } from '../await_object.ts';
import { renderError, SilentExit, UsageError } from '../errors.ts';
import { mappingAt } from '../json.ts';
import { type AnyObject, metadataOf } from '../objects.ts';
import { replicasWanted } from '../output/cluster_columns.ts';
import { escapeLine } from '../output/escape.ts';
import { parseJsonPath } from '../output/jsonpath.ts';
import { objectJson } from '../output/object_json.ts';
import { podCondition } from '../output/pod_state.ts';
import { Progress } from '../output/progress.ts';
import { deliveryOf, phaseOf } from '../output/state.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';
import { findTargets, type TargetFlags } from '../targets.ts';

interface WaitFlags extends TargetFlags {
  readonly for: string;
  readonly timeout: number;
}

const defaultTimeoutMs = 30_000;

/** `bayctl wait`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('wait')
    .description('wait until objects are as you want')
    .argument('<kind>', 'kind, or KIND/NAME')
    .argument('[name...]', 'names or uids')
    .requiredOption('--for <what>', 'phase=RUNNING, condition=Ready[=False], delete, or jsonpath={.path}[=value]')
    .option('--timeout <time>', 'how long; 0 looks once', parseDuration, defaultTimeoutMs)
    .option('-l, --selector <labels>', 'those with these labels')
    .option('--filter <cel>', 'those for which this CEL expression is true')
    .option('--all', 'all of the kind in the namespace')
    .option('-A, --all-namespaces', 'with --selector, --filter or --all: in every namespace')
    .action(async (kind: string, names: string[], flags: WaitFlags, self: Command) =>
      wait(await environment.open(self), [kind, ...names], flags),
    );
  examples(
    withGlobals(command),
    'bayctl wait --for=phase=RUNNING container/web -b local',
    'bayctl wait --for=condition=Ready node/shop-7 -b edge-1 --timeout 5m',
    'bayctl wait --for=delete container/web -b local',
    'bayctl wait --for=condition=Ready pod/redis-master rc/redis -b edge-1 --timeout 2m',
    "bayctl wait --for=jsonpath='{.status.replicasReady}'=2 rc/redis -b edge-1",
    "bayctl wait --for=jsonpath='{.status.restarts}'=0 containers --all -b local",
  );
}

async function wait(session: Session, words: readonly string[], flags: WaitFlags): Promise<void> {
  const wanted = parseWanted(flags.for);
  const targets = await findTargets(session, words, flags);
  if (targets.length === 0) await session.err('Nothing to wait for.\n');
  const deadlineMs = session.io.nowMs() + flags.timeout;
  let status = 0;
  for (const target of targets) {
    const progress = new Progress(session.io);
    try {
      await awaitObject(session, target, wanted, { deadlineMs, progress });
      progress.end();
      await session.out(`${escapeLine(`${target.kind.singular}/${target.name} is ${wanted.text}`)}\n`);
    } catch (error) {
      progress.end();
      const rendered = renderError(error, session.flags.verbose === true);
      status ||= rendered.status;
      await session.err(rendered.text);
    }
  }
  if (status) throw new SilentExit(status);
}

/** Parses the argument of `--for`. Throws UsageError. */
export function parseWanted(text: string): Wanted {
  if (text === 'delete') return { text: 'gone', reached: (object) => object === undefined };
  const [, word = '', rest = ''] = /^(phase|condition|jsonpath)=([\s\S]+)$/.exec(text) ?? [];
  if (word === 'phase') {
    const phase = rest.toUpperCase().replace(/-/g, '_');
    return {
      text: `in phase ${phase}`,
      reached: (object) => object !== undefined && phaseOf(object) === phase && isCurrent(object),
    };
  }
  if (word === 'condition') {
    const [type = '', value = 'True'] = rest.split('=');
    return {
      text: `in condition ${type}=${value}`,
      reached: (object) => object !== undefined && hasCondition(object, type, value),
    };
  }
  if (word === 'jsonpath') {
    const [, template = '', value] = /^((?:'[^']*'|\{[\s\S]*\}|[^=]+))(?:=([\s\S]*))?$/.exec(rest) ?? [];
    const path = parseJsonPath(template.replace(/^'|'$/g, ''));
    return {
      text: `so that ${template}${value === undefined ? ' has a value' : ` is ${value}`}`,
      reached: (object) => {
        const found = object ? path.values(objectJson(object)) : [];
        return value === undefined
          ? found.length > 0
          : found.length > 0 && found.every((item) => plain(item) === value);
      },
    };
  }
  throw new UsageError(
    `--for: cannot read "${text}"; expected phase=RUNNING, condition=Ready, delete or jsonpath={.path}=value`,
  );
}

/** A phase counts only when it speaks of what is asked for now: after a change, RUNNING may still be that of the old container. */
function isCurrent(object: AnyObject): boolean {
  const delivery = deliveryOf(object);
  return (
    !delivery || delivery.observedGeneration === 0n || delivery.observedGeneration >= metadataOf(object).generation
  );
}

function hasCondition(object: AnyObject, type: string, value: string): boolean {
  return conditionOf(object, type).toLowerCase() === value.toLowerCase();
}

/** `True`, `False` or `Unknown`; what nobody has said anything about yet is empty. Throws UsageError for one that the kind does not have. */
function conditionOf(object: AnyObject, type: string): string {
  const phase = phaseOf(object);
  switch (object.$typeName) {
    case 'baykeeper.v1.Node': {
      // What a silent node said last is no condition that it has.
      if (phase === 'UNKNOWN') return 'Unknown';
      const found = object.status?.conditions.find((one) => one.type.toLowerCase() === type.toLowerCase());
      return ['', 'True', 'False', 'Unknown'][found?.status ?? 0] ?? '';
    }
    case 'baykeeper.v1.Pod':
      if (phase === 'UNKNOWN' || !isCurrent(object)) return 'Unknown';
      // One that could not be made as asked may stand there as it was before.
      return phase === 'FAILED' ? 'False' : podCondition(object, type) || (isReady(type) ? 'False' : '');
    default:
      if (!isReady(type))
        throw new UsageError(`--for: a ${object.$typeName.split('.').at(-1)} has only the condition Ready`);
      return ['RUNNING', 'READY', 'SUCCEEDED'].includes(phase) && isCurrent(object) && isHealthy(object)
        ? 'True'
        : 'False';
  }
}

function isReady(type: string): boolean {
  return type.toLowerCase() === 'ready';
}

/** Whether what runs does what it is for. */
function isHealthy(object: AnyObject): boolean {
  switch (object.$typeName) {
    case 'baykeeper.v1.Container': {
      const health: JsonValue | undefined = parseJsonPath('{.status.health}').values(objectJson(object))[0];
      return health !== 'HEALTH_STATE_STARTING' && health !== 'HEALTH_STATE_UNHEALTHY';
    }
    case 'baykeeper.v1.ReplicationController':
      return (object.status?.replicasReady ?? 0) >= replicasWanted(object);
    case 'baykeeper.v1.Service':
      // Without a selector its endpoints are somebody else's affair.
      return (
        (object.status?.endpointsReady.length ?? 0) > 0 ||
        Object.keys(mappingAt(object.spec?.manifest, 'selector')).length === 0
      );
    default:
      return true;
  }
}

function plain(value: JsonValue): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
