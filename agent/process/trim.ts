import { getHeapStatistics } from 'node:v8';

/** V8's own, under `--expose-gc`. */
type CollectGarbage = (options: { type: 'major'; execution: 'sync'; flavor: 'last-resort' }) => void;

/** Of a core, in that time: more than that is work. */
const quietShare = 0.05;
/** What the heap has to have grown by to be worth it. */
const worthBytes = 2 * 1024 * 1024;

/**
 * Gives memory back when there is nothing to do: after the start, and after each time that there was much to do. V8 keeps what a heap has had, as
 * it may need it again; of an agent that is 10 MB, for hours. It takes 30 ms. Without `--expose-gc` nothing is done. Returns what ends it.
 *
 * `intervalMs`: for so long it is looked at what the agent does.
 */
export function trimWhenQuiet(intervalMs = 5_000): () => void {
  const collect = (globalThis as { gc?: CollectGarbage }).gc;
  if (!collect) return () => undefined;
  let leastBytes = 0;
  let before = process.cpuUsage();
  const timer = setInterval(() => {
    const { user, system } = process.cpuUsage(before);
    before = process.cpuUsage();
    const isQuiet = (user + system) / 1_000 < quietShare * intervalMs;
    if (!isQuiet || getHeapStatistics().total_heap_size < leastBytes + worthBytes) return;
    collect({ type: 'major', execution: 'sync', flavor: 'last-resort' });
    leastBytes = getHeapStatistics().total_heap_size;
  }, intervalMs);
  timer.unref();
  return () => clearInterval(timer);
}
