import { isMessage } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { type Node, NodeSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { UsageError } from '../errors.ts';
import { kindRow } from '../kinds.ts';
import { metadataOf } from '../objects.ts';
import { age } from '../output/age.ts';
import { palette, phasePaint } from '../output/color.ts';
import { none } from '../output/column.ts';
import { bytesText } from '../output/describe.ts';
import { sortObjects } from '../output/printer.ts';
import { quantity } from '../output/quantity.ts';
import { phaseOf } from '../output/state.ts';
import { Table } from '../output/table.ts';
import { selectorToFilter } from '../selector.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';

interface TopFlags {
  readonly selector?: string;
  readonly sortBy?: string;
  readonly headers: boolean;
}

const sorts: Readonly<Record<string, string>> = {
  cpu: '.status.usage.cpuPercent',
  memory: '.status.usage.memoryUsedBytes',
  disk: '.status.usage.diskUsedBytes',
};

/** `bayctl top`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent.command('top').description('show what nodes use');
  examples(command, 'bayctl top nodes -b local');
  const nodes = command
    .command('nodes')
    .aliases(['node', 'no'])
    .description('show what nodes use; of a node that is silent, nothing is known')
    .argument('[name...]', 'only these')
    .option('-l, --selector <labels>', 'only those with these labels')
    .option('--sort-by <what>', 'cpu, memory, disk or name')
    .option('--no-headers', 'no titles over the columns')
    .action(async (names: string[], flags: TopFlags, self: Command) => top(await environment.open(self), names, flags));
  examples(withGlobals(nodes), 'bayctl top nodes -b local', 'bayctl top nodes -b edge-1 --sort-by memory');
}

async function top(session: Session, names: readonly string[], flags: TopFlags): Promise<void> {
  const kind = kindRow('Node');
  if (flags.sortBy && flags.sortBy !== 'name' && !Object.hasOwn(sorts, flags.sortBy))
    throw new UsageError('--sort-by takes cpu, memory, disk or name');
  if (names.length > 0 && flags.selector) throw new UsageError('give names or --selector, not both');
  const found =
    names.length > 0
      ? await Promise.all(names.map((name) => session.objects.get(kind, session.place, name)))
      : (
          await session.objects.list(kind, session.place, {
            filter: flags.selector ? selectorToFilter(flags.selector) : '',
          })
        ).objects;
  const by = flags.sortBy ?? 'name';
  const sorted = await sortObjects(found, sorts[by] ?? by);
  if (by !== 'name') sorted.reverse();
  const nodes = sorted.filter((node) => isMessage(node, NodeSchema));
  if (nodes.length === 0) return session.err(`No nodes found in bay ${session.place.bay}.\n`);
  const colour = palette(session.io, session.io.stdout);
  const right = { right: true };
  const table = new Table(
    [
      { title: 'NAME' },
      { title: 'STATUS', paint: (cell, text) => phasePaint(colour, cell)(text) },
      { title: 'CPU', ...right },
      { title: 'CORES', ...right },
      { title: 'MEMORY', ...right },
      { title: 'MEMORY%', ...right },
      { title: 'DISK', ...right },
      { title: 'DISK%', ...right },
      { title: 'LOAD', ...right },
      { title: 'CONTAINERS', ...right },
      { title: 'SEEN' },
    ],
    { header: flags.headers, ...(session.io.stdout.isTTY ? { maxWidth: session.io.stdout.columns } : {}) },
  );
  const nowMs = session.io.nowMs();
  await session.out(table.render(nodes.map((node) => row(node, nowMs))));
}

function row(node: Node, nowMs: number): string[] {
  const phase = phaseOf(node) || 'PENDING';
  const { usage, info, cluster, observeTime } = node.status ?? {};
  const seen = observeTime ? `${age(observeTime, nowMs)} ago` : 'never';
  const name = metadataOf(node).name;
  // Figures past their trust are not shown as if they were so now; nor those of a cluster that serves no metrics as if they were 0.
  if (!usage || phase === 'UNKNOWN' || phase === 'REVOKED')
    return [name, phase, ...Array<string>(8).fill('<unknown>'), seen];
  const cores = info?.cpus || quantity(cluster?.capacity.cpu ?? '');
  const memoryBytes = info?.memoryBytes || BigInt(Math.round(quantity(cluster?.capacity.memory ?? '')));
  const hasDisk = usage.diskTotalBytes > 0n;
  // Of a node without an agent of its own its cluster serves processor and memory alone.
  const isAgents = !node.status?.reportedBy;
  return [
    name,
    phase,
    `${usage.cpuPercent.toFixed(0)}%`,
    String(cores || '?'),
    bytesText(Number(usage.memoryUsedBytes)),
    percent(usage.memoryUsedBytes, memoryBytes),
    hasDisk || isAgents ? bytesText(Number(usage.diskUsedBytes)) : none,
    hasDisk || isAgents ? percent(usage.diskUsedBytes, usage.diskTotalBytes) : none,
    isAgents ? usage.load1m.toFixed(2) : none,
    isAgents ? `${usage.containersRunning}/${usage.containersTotal}` : none,
    seen,
  ];
}

function percent(part: bigint, whole: bigint): string {
  return whole > 0n ? `${((Number(part) / Number(whole)) * 100).toFixed(0)}%` : '?';
}
