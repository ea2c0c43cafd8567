import { readFile } from 'node:fs/promises';
import { kill, processes } from './process_tree.ts';

/**
 * Kills what containerd still holds of a container that its engine has forgotten. An engine that crashes in the middle of a start leaves its
 * task behind, comes up without it, and from then on refuses to start the container: the task is in the way, and the engine has no call to
 * end it (moby issues 38346, 40613). Its shim names the container on its command line, and its children are the task; without them the task
 * has stopped, and the engine's next start clears it away.
 *
 * False: /proc shows none (an agent in a container, an engine in a virtual machine, a task without a process), and nothing was done.
 *
 * @param id The engine's full id of a container that the engine says does not run.
 */
export async function killLeftoverTask(id: string): Promise<boolean> {
  const all = await processes();
  let killed = 0;
  for (const shim of all) {
    const [program = '', ...args] = (await readFile(`/proc/${shim.pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (!/(^|\/)containerd-shim[^/]*$/.test(program) || args[args.indexOf('-id') + 1] !== id) continue;
    for (const one of all) {
      if (one.parent !== shim.pid) continue;
      kill(one.pid, 'SIGKILL');
      killed += 1;
    }
  }
  return killed > 0;
}
