/**
 * The audit log: who did what, from where, and what came of it. Records are only ever added, and each has the hash of the one before it.
 */
export interface AuditLog {
  /** Resolves when the record is on disk. Rejects with UnavailableError when it cannot be put there; it is put there as soon as it can be. */
  append(entry: AuditEntry): Promise<void>;
  /** Adds a record that nobody waits for. */
  note(entry: AuditEntry): void;
  /** Why nothing can be recorded now; undefined: it can. */
  readonly problem: string | undefined;
  /** The newest record on disk. */
  readonly head: ChainHead;
  /** Records before `before` (undefined: the newest), newest first. */
  read(before: number | undefined): AsyncIterable<AuditRecord>;
  /** Records after this one, oldest first, as far as they are on disk now. */
  readAfter(sequence: number): AsyncIterable<AuditRecord>;
  /** Calls back with each batch of records, once it is on disk. Returns what ends that. */
  subscribe(listener: (records: readonly AuditRecord[]) => void): () => void;
  /** Reads everything again from the disk, and holds it against the chain. `expected`: records that somebody has noted elsewhere. */
  verify(expected?: readonly ChainHead[]): Promise<Verification>;
}

export interface AuditEntry {
  /**
   * `change`: it was done. `refused`: it was not, or not for certain. `system`: of the control plane itself. `effect`: what an agent has done about
   * a change.
   */
  readonly kind: 'change' | 'refused' | 'system' | 'effect';
  /** `baykeeper.v1.ContainerService/CreateContainer`. Empty: none. */
  readonly method: string;
  readonly subject: string;
  readonly project: string;
  readonly role: string;
  /** Network address. */
  readonly peer: string;
  readonly requestId: string;
  /** As gRPC names it, in small letters: `ok`, `permission_denied`; `begun` for a command in a container, and `command_ended`; `applied`, `failed`, `removed` of an effect. */
  readonly code: string;
  readonly objects: readonly AuditedObject[];
  /** How many calls it stands for: more than 1 where there were too many to record each. */
  readonly count: number;
  /** For people. */
  readonly message: string;
}

/** An object that a call was about. Numbers are 0 where they are not known. */
export interface AuditedObject {
  readonly kind: string;
  readonly bay: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly revision: number;
  readonly generation: number;
  /** What became of this one, in a call about several. Empty: what became of the call. */
  readonly outcome: string;
}

/** What is not known of an object. */
export const noObject: AuditedObject = {
  kind: '',
  bay: '',
  namespace: '',
  name: '',
  uid: '',
  revision: 0,
  generation: 0,
  outcome: '',
};

/** What a call is recorded with, whatever becomes of it. */
export type AuditedCall = Omit<AuditEntry, 'kind' | 'code'>;

/** Streams that were ended together are named one by one up to here, and counted beyond: a caller may have many. */
const maxNamed = 100;

/** The records of open streams that were ended for somebody else's sake. */
export function streamsEnded(calls: readonly AuditedCall[], reason: string): AuditEntry[] {
  const ended = { kind: 'system', code: 'stream_ended', message: reason } as const;
  const entries = calls.slice(0, maxNamed).map((call) => ({ ...call, ...ended }));
  const [next] = calls.slice(maxNamed);
  if (next) {
    const { subject, project, role } = next;
    entries.push({ ...nobody, ...ended, method: '', subject, project, role, count: calls.length - maxNamed });
  }
  return entries;
}

export interface AuditRecord extends AuditEntry, ChainHead {
  readonly timeMs: number;
  /** Hash of the record before it. */
  readonly previous: string;
}

/** A place in the chain. */
export interface ChainHead {
  /** 1, 2, 3 … without a gap, over all files. 0: there is none yet. */
  readonly sequence: number;
  /** SHA-256 of the record as it lies on disk, in hexadecimal digits. */
  readonly hash: string;
}

export interface Verification {
  readonly head: ChainHead;
  readonly records: number;
  readonly files: number;
  /** What is wrong, first things first. Empty: nothing. */
  readonly problems: readonly AuditProblem[];
}

export interface AuditProblem {
  readonly file: string;
  /** From 1; 0: the file as a whole. */
  readonly line: number;
  readonly message: string;
}

/** Codes of records of the log about itself: its end was not as it was left, and some were not written. */
export const damaged = 'audit_damaged';
export const lost = 'audit_lost';

export const nobody: Omit<AuditEntry, 'kind' | 'method' | 'code'> = {
  subject: '',
  project: '',
  role: '',
  peer: '',
  requestId: '',
  objects: [],
  count: 1,
  message: '',
};
