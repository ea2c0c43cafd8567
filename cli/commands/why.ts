import { toJson } from '@bufbuild/protobuf';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import type { Command } from 'commander';
import {
  ExplainService,
  Kind,
  WhyOutcome,
  WhyResponseSchema,
  WhyStage,
  type WhyStep,
} from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { UsageError } from '../errors.ts';
import { type KindName, parseTarget } from '../kinds.ts';
import { named, within } from '../objects.ts';
import { duration, isoTime } from '../output/age.ts';
import { type Palette, palette } from '../output/color.ts';
import { escapeText } from '../output/escape.ts';
import { eventTable } from '../output/events.ts';
import { parseOutput, printValue } from '../output/printer.ts';
import { Table } from '../output/table.ts';
import { type Environment, examples, withGlobals } from '../session.ts';

const kinds: Readonly<Record<KindName, Kind>> = {
  BayModel: Kind.BAY_MODEL,
  Bay: Kind.BAY,
  Node: Kind.NODE,
  Pod: Kind.POD,
  Service: Kind.SERVICE,
  ReplicationController: Kind.REPLICATION_CONTROLLER,
  Container: Kind.CONTAINER,
};

/** `bayctl why`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('why')
    .description('say why an object is as it is: from what was asked for to what was seen, with times')
    .argument('<object>', 'KIND/NAME')
    .argument('[name]', 'the name, when KIND and NAME are two words')
    .option('-o, --output <format>', 'json, yaml or jsonpath=TEMPLATE')
    .action(async (word: string, name: string | undefined, flags: { output?: string }, self: Command) => {
      const target = parseTarget(name === undefined ? word : `${word}/${name}`);
      const format = await parseOutput(flags.output);
      if (format.type === 'name' || (format.type === 'table' && format.wide))
        throw new UsageError('-o takes json, yaml or jsonpath=… here');
      const session = await environment.open(self);
      const response = await session.api.unary(ExplainService.method.why, {
        kind: kinds[target.kind.name],
        ...within(target.kind, session.place, session.settings),
        ...named(target.name),
      });
      if (
        await printValue(session.io.stdout, format, toJson(WhyResponseSchema, response, { alwaysEmitImplicit: true }))
      )
        return;

      const colour = palette(session.io, session.io.stdout);
      const { bay, namespace } = { bay: '', namespace: '', ...within(target.kind, session.place, session.settings) };
      const where = [bay && `bay ${bay}`, namespace && namespace !== 'default' && `namespace ${namespace}`]
        .filter(Boolean)
        .join(', ');
      const title = `${target.kind.singular}/${target.name}${where ? ` in ${where}` : ''}, generation ${response.generation}`;
      await session.out(`${colour.bold(escapeText(title))}\n\n`);
      const table = new Table(
        columns(colour),
        session.io.stdout.isTTY ? { maxWidth: session.io.stdout.columns, header: false } : { header: false },
      );
      const nowMs = session.io.nowMs();
      await session.out(table.render(response.steps.map((step) => row(step, response.generation, nowMs))));
      if (response.events.length > 0) {
        const width = session.io.stdout.isTTY ? { maxWidth: session.io.stdout.columns } : {};
        await session.out(`\nEvents in the cluster:\n${eventTable(response.events, nowMs, { colour, ...width })}`);
      }
      if (response.summary) await session.out(`\n${escapeText(response.summary)}\n`);
    });
  examples(
    withGlobals(command),
    'bayctl why container/web -b local',
    'bayctl why pod/redis-master -b edge-1',
    'bayctl why node/shop-7 -b edge-1',
    'bayctl why container/web -b local -o json',
  );
}

const marks: Readonly<Record<WhyOutcome, string>> = {
  [WhyOutcome.UNSPECIFIED]: '-',
  [WhyOutcome.DONE]: '✓',
  [WhyOutcome.WAITING]: '…',
  [WhyOutcome.REFUSED]: '✗',
  [WhyOutcome.UNKNOWN]: '?',
};
const words: Readonly<Record<WhyOutcome, string>> = {
  [WhyOutcome.UNSPECIFIED]: '',
  [WhyOutcome.DONE]: '',
  [WhyOutcome.WAITING]: 'waiting',
  [WhyOutcome.REFUSED]: 'refused',
  [WhyOutcome.UNKNOWN]: 'not known',
};

function columns(colour: Palette) {
  const paint = (mark: string): ((text: string) => string) =>
    ({ '✓': colour.good, '✗': colour.bad, '…': colour.busy, '?': colour.busy })[mark] ?? colour.dim;
  return [
    { title: '', paint: (cell: string, text: string) => paint(cell)(text) },
    { title: 'STAGE' },
    { title: 'TIME' },
    { title: 'AGE' },
    { title: 'BY', shrinks: true },
    { title: 'DETAIL', shrinks: true },
  ];
}

function row(step: WhyStep, wanted: bigint, nowMs: number): string[] {
  const ms = step.time ? timestampMs(step.time) : undefined;
  const detail = [
    words[step.outcome] ?? '',
    step.generation !== 0n && step.generation !== wanted ? `generation ${step.generation}` : '',
    step.reason,
    step.message,
  ];
  return [
    marks[step.outcome] ?? '-',
    (WhyStage[step.stage] ?? String(step.stage)).toLowerCase(),
    ms === undefined ? '' : isoTime(ms),
    ms === undefined ? '' : `${duration(nowMs - ms)} ago`,
    step.actor,
    detail.filter(Boolean).join(': '),
  ];
}
