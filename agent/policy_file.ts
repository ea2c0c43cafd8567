import { constants } from 'node:fs';
import { lstat, open, realpath, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { getuid } from 'node:process';
import type { Clock } from './clock.ts';
import type { Log } from './log.ts';
import { allowAll, type Policy, PolicyError, type PolicySource, readPolicy, summary } from './policy.ts';

/** Where a policy is looked for when no path is given; after it, in the agent's data folder. */
export const defaultPolicyFile = '/etc/baykeeper/agent.yaml';
const fileName = 'agent.yaml';

const maxBytes = 256 * 1024;
/** How soon a change is noticed. One `stat` each. */
const lookMs = 2_000;
const writableByOthers = 0o022;
const sticky = 0o1000;

export interface PolicyFileOptions {
  /** As it was given: must be there. Undefined: the defaults, which need not be. */
  readonly path: string | undefined;
  readonly dataDir: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Default: `defaultPolicyFile`. */
  readonly systemPath?: string;
}

/** What tells one content of a file from another. */
interface Version {
  readonly path: string;
  readonly stamp: string;
}

/**
 * The node's policy, from a file that only its owner can write. It is read again when it changes. What can then not be read, or is gone, changes
 * nothing: the policy that was read last holds, and `problem` says so.
 */
export class PolicyFile implements PolicySource {
  readonly #options: PolicyFileOptions;
  readonly #listeners = new Set<() => void>();
  #current: Policy = allowAll;
  #problem: string | undefined;
  #seen = '';
  #cancel: () => void = () => undefined;
  #closed = false;

  /** Rejects with PolicyError when there is a file and it cannot hold, or when the one that was asked for is not there. */
  static async open(options: PolicyFileOptions): Promise<PolicyFile> {
    const file = new PolicyFile(options);
    const version = await file.#find();
    if (version) {
      file.#seen = version.stamp;
      file.#current = await loadPolicy(version.path);
    }
    file.#watch();
    return file;
  }

  private constructor(options: PolicyFileOptions) {
    this.#options = options;
  }

  get current(): Policy {
    return this.#current;
  }

  get problem(): string | undefined {
    return this.#problem;
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  close(): void {
    this.#closed = true;
    this.#cancel();
  }

  /** Undefined: there is none, and none was asked for. */
  async #find(): Promise<Version | undefined> {
    const { path, dataDir, systemPath = defaultPolicyFile } = this.#options;
    for (const candidate of path === undefined ? [systemPath, join(dataDir, fileName)] : [path]) {
      try {
        const { dev, ino, size, mtimeMs, ctimeMs } = await stat(candidate);
        return { path: candidate, stamp: [candidate, dev, ino, size, mtimeMs, ctimeMs].join(' ') };
      } catch (error) {
        if (candidate === this.#current.source && isMissing(error)) throw new PolicyError(`${candidate}: it is gone`);
        // A link that leads nowhere is there: its owner has put it there, and does not mean that everything is allowed.
        const isNone = isMissing(error) && (await lstat(candidate).then(() => false, isMissing));
        if (!isNone || path !== undefined) throw new PolicyError(`${candidate}: ${text(error)}`);
      }
    }
    return undefined;
  }

  #watch(): void {
    if (this.#closed) return;
    this.#cancel = this.#options.clock.after(lookMs, () => void this.#look().finally(() => this.#watch()));
  }

  /** Never rejects. */
  async #look(): Promise<void> {
    const { log } = this.#options;
    try {
      const version = await this.#find();
      if (!version) {
        this.#say(undefined);
        return;
      }
      if (version.stamp === this.#seen) return;
      this.#seen = version.stamp;
      this.#current = await loadPolicy(version.path);
      log.info({ policy: version.path, rules: summary(this.#current) }, 'the policy of the node has changed');
      this.#problem = undefined;
      this.#tell();
    } catch (error) {
      // It may be readable the next time without being another.
      this.#seen = '';
      this.#say(text(error));
    }
  }

  #say(problem: string | undefined): void {
    if (problem === this.#problem) return;
    this.#problem = problem;
    if (problem !== undefined) {
      this.#options.log.error({ problem }, 'the policy of the node cannot be read: the one before holds');
    }
    this.#tell();
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}

/** Reads a file that must be there. Rejects with PolicyError that names the file, the place in it, and what was expected. */
export async function loadPolicy(path: string): Promise<Policy> {
  try {
    return readPolicy(await parse(await readOwned(path)), path);
  } catch (error) {
    throw new PolicyError(`${path}: ${text(error)}`, { cause: error });
  }
}

/** Whoever can write the file, or put another in its place, has the say on the node: nobody but root and the agent's own user may. */
async function readOwned(path: string): Promise<string> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const found = await file.stat();
    if (!found.isFile()) throw new PolicyError('expected a file');
    checkOwner('the file', found);
    // Of what a link leads to, and of the link.
    for (const folder of [dirname(await realpath(path)), dirname(path)]) {
      const above = await stat(folder);
      if (!(above.mode & sticky)) checkOwner(`the folder ${folder}`, above);
    }
    if (found.size > maxBytes) throw new PolicyError(`expected at most ${maxBytes} bytes, got ${found.size}`);
    return await file.readFile('utf8');
  } finally {
    await file.close();
  }
}

function checkOwner(what: string, { uid, mode }: { readonly uid: number; readonly mode: number }): void {
  const own = getuid?.() ?? 0;
  if (uid !== 0 && uid !== own) {
    throw new PolicyError(`${what} belongs to user ${uid}: expected root${own === 0 ? '' : ` or user ${own}`}`);
  }
  if (mode & writableByOthers) {
    throw new PolicyError(`${what} can be written by others than its owner: expected chmod go-w`);
  }
}

async function parse(content: string): Promise<unknown> {
  // Most nodes have no policy, and an agent is to be small.
  const { LineCounter, parseDocument } = await import('yaml');
  const lines = new LineCounter();
  const document = parseDocument(content, { lineCounter: lines, prettyErrors: false, logLevel: 'error' });
  const [error] = [...document.errors, ...document.warnings];
  if (error) {
    const { line, col } = lines.linePos(error.pos[0]);
    throw new PolicyError(`line ${line}, column ${col}: ${error.message}`);
  }
  return document.toJS({ maxAliasCount: 0 });
}

const isMissing = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'ENOENT';
const text = (error: unknown): string => (error instanceof Error ? error.message : String(error));
