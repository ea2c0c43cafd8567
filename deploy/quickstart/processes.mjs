import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { delay } from './process.mjs';

/**
 * The processes of one state folder, found by what the kernel says of them and not by a note of their numbers: a note can be lost, or name a
 * number that belongs to somebody else by now.
 */

/** The variable in which what the supervisor starts carries its state folder. The same name is in supervisor.ts. */
const homeVariable = 'BAYKEEPER_SUPERVISED';

/** When a process started, in clock ticks since boot; undefined when there is none. With its number, that names a process for good. */
export function startTicks(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name, in brackets, may hold anything: fields are counted from its end. State is the third field, the start time the 22nd.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : Number(fields[19]);
  } catch {
    return undefined;
  }
}

/**
 * What runs for this state folder, each with its role: `supervisor`, `control plane`, `agent` or `broker`. Only processes of the same
 * user, in the same process namespace, of the right program and with the folder in their arguments or environment count.
 */
export function processesOf(home) {
  const found = [];
  const uid = process.getuid();
  const namespace = namespaceOf('self');
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue;
    try {
      if (statSync(`/proc/${entry}`).uid !== uid || namespaceOf(entry) !== namespace) continue;
      const args = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0');
      const role = roleOf(args, home, () => readFileSync(`/proc/${entry}/environ`, 'utf8').split('\0'));
      const ticks = startTicks(entry);
      if (role && ticks !== undefined) found.push({ pid: Number(entry), role, startTicks: ticks, args });
    } catch {
      // Ended meanwhile, or not ours to look at.
    }
  }
  return found;
}

function namespaceOf(pid) {
  return readlinkSync(`/proc/${pid}/ns/pid`);
}

function roleOf(args, home, environment) {
  const program = path.basename(args[0] ?? '');
  const follows = (flag, value) => args.some((arg, index) => arg === flag && args[index + 1] === value);
  const script = (ending) => args.some((arg) => arg.endsWith(ending));
  if (program === 'nats-server')
    return args.some((arg) => arg.startsWith(`${home}/control-plane/`)) ? 'broker' : undefined;
  if (program !== 'node') return undefined;
  if (script('/deploy/quickstart/supervisor.ts') && follows('--home', home)) return 'supervisor';
  if (script('/control-plane/main.ts') && follows('--data', `${home}/control-plane`)) return 'control plane';
  // The agent begins again without its arguments: it is known by what the supervisor gave it to keep.
  if (script('/agent/main.ts') && environment().includes(`${homeVariable}=${home}`)) return 'agent';
  return undefined;
}

/** The supervisor of a state folder, or undefined. */
export function supervisorOf(home) {
  return processesOf(home).find(({ role }) => role === 'supervisor');
}

/** Whether it still runs: that one, not another which has its number now. */
export function isAlive({ pid, startTicks: ticks }) {
  return ticks !== undefined && startTicks(pid) === ticks;
}

/** Asks it to end, waits, and ends it by force when it does not. Says whether force was needed. */
export async function end(target, { timeoutMs }) {
  if (!(await signalAndWait(target, 'SIGTERM', timeoutMs))) {
    await signalAndWait(target, 'SIGKILL', 5_000);
    return { forced: true };
  }
  return { forced: false };
}

async function signalAndWait(target, signal, timeoutMs) {
  const deadlineMs = Date.now() + timeoutMs;
  if (!isAlive(target)) return true;
  try {
    process.kill(target.pid, signal);
  } catch (error) {
    if (error.code === 'ESRCH') return true;
    throw error;
  }
  while (isAlive(target)) {
    if (Date.now() > deadlineMs) return false;
    await delay(50);
  }
  return true;
}

/** The order in which they end: who starts others first, and who depends on others before them. */
const endOrder = ['supervisor', 'agent', 'control plane', 'broker'];

/** Ends all that runs for a state folder. Returns what was ended. */
export async function endAll(home) {
  const ended = [];
  for (const role of endOrder) {
    // Looked up anew: ending the one before usually ended these too.
    for (const target of processesOf(home).filter((candidate) => candidate.role === role)) {
      const { forced } = await end(target, { timeoutMs: role === 'supervisor' ? 45_000 : 15_000 });
      ended.push({ ...target, forced });
    }
  }
  return ended;
}
