import type { JsonValue } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { ConditionStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { parseDuration } from '../args.ts';
import { awaitObject, type Wanted } from '../await_object.ts';
import { renderError, SilentExit, UsageError } from '../errors.ts';
import { type AnyObject, metadataOf } from '../objects.ts';
import { escapeLine } from '../output/escape.ts';
import { parseJsonPath } from '../output/jsonpath.ts';
import { objectJson } from '../output/object_json.ts';
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
  const wanted = value.toLowerCase();
  if (object.$typeName === 'baykeeper.v1.Node') {
    const condition = object.status?.conditions.find(
      (candidate) => candidate.type.toLowerCase() === type.toLowerCase(),
    );
    // What a silent node said last is no condition that it has.
    const status = phaseOf(object) === 'UNKNOWN' ? ConditionStatus.UNKNOWN : condition?.status;
    return status !== undefined && ['', 'true', 'false', 'unknown'][status] === wanted;
  }
  if (type.toLowerCase() !== 'ready')
    throw new UsageError(`--for: a ${object.$typeName.split('.').at(-1)} has only the condition Ready`);
  const ready = ['RUNNING', 'READY', 'SUCCEEDED'].includes(phaseOf(object)) && isCurrent(object) && isHealthy(object);
  return wanted === String(ready);
}

function isHealthy(object: AnyObject): boolean {
  if (object.$typeName !== 'baykeeper.v1.Container') return true;
  const health: JsonValue | undefined = parseJsonPath('{.status.health}').values(objectJson(object))[0];
  return health !== 'HEALTH_STATE_STARTING' && health !== 'HEALTH_STATE_UNHEALTHY';
}

function plain(value: JsonValue): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
