import { Code } from '@connectrpc/connect';
import type { Command } from 'commander';
import { WatchEventType } from '../../proto/gen/baykeeper/v1/watch_pb.js';
import { parsePositiveCount } from '../args.ts';
import { hasCode } from '../client.ts';
import { everyProject } from '../context.ts';
import { renderError, SilentExit, UsageError } from '../errors.ts';
import { type KindRow, parseSelection, type Selection } from '../kinds.ts';
import type { AnyObject, Place } from '../objects.ts';
import { jsonLine, objectJson } from '../output/object_json.ts';
import { type OutputFormat, Printer, parseOutput, sortObjects } from '../output/printer.ts';
import { bothFilters, selectorToFilter } from '../selector.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';
import { resumingWatch } from '../watch.ts';

interface GetFlags {
  readonly output?: string;
  readonly selector?: string;
  readonly filter?: string;
  readonly sortBy?: string;
  readonly watch?: boolean;
  readonly watchOnly?: boolean;
  readonly outputWatchEvents?: boolean;
  readonly headers: boolean;
  readonly limit?: number;
  readonly allNamespaces?: boolean;
  readonly ignoreNotFound?: boolean;
}

/** `bayctl get`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('get')
    .description('show objects')
    .argument(
      '<kind>',
      'kind (container, pod, service, rc, node, bay, baymodel), several with commas, all, or KIND/NAME',
    )
    .argument('[name...]', 'names or uids')
    .option('-o, --output <format>', 'wide, json, yaml, name, manifest (v1, as kubectl takes it) or jsonpath=TEMPLATE')
    .option('-l, --selector <labels>', 'only those with these labels: a=b,c!=d,e in (f,g),h,!i')
    .option('--filter <cel>', 'only those for which this CEL expression is true: status.phase == "FAILED"')
    .option('--sort-by <path>', 'name, age or a JSONPath')
    .option('-w, --watch', 'go on with every change')
    .option('--watch-only', 'only changes from now on')
    .option('--output-watch-events', 'with --watch and -o json: {"type": …, "object": …} on each line')
    .option('--no-headers', 'no titles over the columns')
    .option('--limit <count>', 'at most so many', parsePositiveCount)
    .option('-A, --all-namespaces', 'of every namespace of the bay')
    .option('--ignore-not-found', 'no error where there is none of that name')
    .action(async (kind: string, names: string[], flags: GetFlags, self: Command) => {
      await get(await environment.open(self), [kind, ...names], flags);
    });
  examples(
    withGlobals(command),
    'bayctl get nodes -b local',
    'bayctl get container web -b local -o json',
    'bayctl get c,po -b local -l tier=web -o wide',
    'bayctl get containers -b local -o jsonpath=\'{range .items[*]}{.metadata.name}{"\\n"}{end}\'',
    'bayctl get all -b local -A',
    'bayctl get pods -b edge-1 -A -o wide',
    'bayctl get pod,svc,rc -b edge-1 -o manifest > all.yaml',
    'bayctl get containers -b local --watch',
  );
}

async function get(session: Session, words: readonly string[], flags: GetFlags): Promise<void> {
  const selection = parseSelection(words);
  const format = await parseOutput(flags.output, { objects: true });
  const filter = bothFilters(flags.selector && selectorToFilter(flags.selector), flags.filter);
  if (filter && selection.targets.length > 0) throw new UsageError('give names, or --selector and --filter, not both');
  const namespace = flags.allNamespaces ? '' : session.place.namespace || 'default';
  const place = {
    bay: session.place.bay,
    namespace: selection.targets.length > 0 ? session.place.namespace : namespace,
  };
  const printer = new Printer(session.io, {
    format,
    header: flags.headers,
    namespaces: flags.allNamespaces === true,
    projects: session.settings.project === everyProject,
    prefixed: selection.kinds.length > 1,
  });
  if (flags.watch || flags.watchOnly) return watch(session, selection, place, filter, format, printer, flags);
  if (selection.targets.length > 0) return getNamed(session, selection, place, printer, flags);

  const objects: AnyObject[] = [];
  for (const kind of selection.kinds)
    objects.push(...(await listKind(session, kind, place, filter, flags, selection.kinds.length > 1)));
  const sorted = flags.sortBy ? await sortObjects(objects, flags.sortBy) : objects;
  if (sorted.length === 0 && (format.type === 'table' || format.type === 'name')) {
    await session.err(
      `No ${selection.kinds.map((kind) => kind.plural).join(', ')} found${placeText(selection.kinds, place)}.\n`,
    );
    return;
  }
  await printer.many(sorted);
}

async function listKind(
  session: Session,
  kind: KindRow,
  place: Place,
  filter: string,
  flags: GetFlags,
  oneOfSeveral: boolean,
): Promise<AnyObject[]> {
  try {
    return (await session.objects.list(kind, place, { filter, limit: flags.limit })).objects;
  } catch (error) {
    // Of `all`, what the bay's engine cannot have is no news.
    if (oneOfSeveral && hasCode(error, Code.Unimplemented)) {
      if (session.flags.verbose) await session.err(renderError(error, true).text);
      return [];
    }
    throw error;
  }
}

async function getNamed(
  session: Session,
  selection: Selection,
  place: Place,
  printer: Printer,
  flags: GetFlags,
): Promise<void> {
  const results = await Promise.allSettled(
    selection.targets.map(({ kind, name }) => session.objects.get(kind, place, name)),
  );
  const found = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  const failures = results
    .flatMap((result): unknown[] => (result.status === 'rejected' ? [result.reason] : []))
    .filter((error) => !(flags.ignoreNotFound && hasCode(error, Code.NotFound)));
  const [first] = failures;
  if (first !== undefined && found.length === 0 && failures.length === 1) throw first;
  const [only] = found;
  if (only && selection.targets.length === 1) await printer.one(only);
  else if (found.length > 0) await printer.many(found);
  for (const failure of failures) await session.err(renderError(failure, session.flags.verbose === true).text);
  if (first !== undefined) throw new SilentExit(renderError(first, false).status);
}

async function watch(
  session: Session,
  selection: Selection,
  place: Place,
  filter: string,
  format: OutputFormat,
  printer: Printer,
  flags: GetFlags,
): Promise<void> {
  const [kind] = selection.kinds;
  const [target] = selection.targets;
  if (!kind || selection.kinds.length > 1 || selection.targets.length > 1)
    throw new UsageError('--watch takes one kind, or one object');
  if (flags.sortBy) throw new UsageError('--sort-by does not go with --watch: changes come in their own order');
  session.io.endWithReader();
  let name = '';
  if (target) name = (await session.objects.get(kind, place, target.name)).metadata?.name ?? '';
  const sinceRevision = flags.watchOnly ? (await session.objects.list(kind, place, { limit: 1 })).revision : undefined;
  /** The snapshot, so that its table lines up. */
  let snapshot: AnyObject[] | undefined = format.type === 'table' && sinceRevision === undefined ? [] : undefined;
  const events = resumingWatch(session.objects, {
    kind,
    place,
    filter,
    name,
    signal: session.io.signal,
    ...(sinceRevision === undefined ? {} : { sinceRevision }),
    onDrop: (error) => {
      session.io.stderr.write(
        `bayctl: ${renderError(error, false)
          .text.replace(/^Error: /, '')
          .trimEnd()}; trying again\n`,
      );
    },
  });
  for await (const event of events) {
    if (event.type === WatchEventType.SYNCED) {
      if (snapshot) await printer.many(snapshot);
      snapshot = undefined;
    } else if (event.object && snapshot) {
      snapshot = merge(snapshot, event.object, event.type === WatchEventType.DELETED);
    } else if (event.object && flags.outputWatchEvents && format.type === 'json') {
      await session.out(jsonLine({ type: WatchEventType[event.type], object: objectJson(event.object) }));
    } else if (event.object) {
      await printer.event(event.object, event.type === WatchEventType.DELETED);
    }
  }
}

/** A snapshot that is begun again after a drop must not show an object twice. */
function merge(snapshot: readonly AnyObject[], object: AnyObject, deleted: boolean): AnyObject[] {
  const others = snapshot.filter((other) => other.metadata?.uid !== object.metadata?.uid);
  return deleted ? others : [...others, object];
}

function placeText(kinds: readonly KindRow[], place: Place): string {
  if (kinds.every((kind) => kind.scope === 'project')) return '';
  const namespace =
    kinds.some((kind) => kind.scope === 'namespace') && place.namespace ? `, namespace ${place.namespace}` : '';
  return `${place.bay && ` in bay ${place.bay}`}${namespace}`;
}
