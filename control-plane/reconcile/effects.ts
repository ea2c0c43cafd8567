import { type AuditedObject, type AuditLog, nobody } from '../audit/port.ts';

/** What an agent has done about a change, when it says so for the first time. */
export interface ReportedEffect {
  readonly what: 'applied' | 'failed' | 'removed';
  readonly project: string;
  /** Name of the node whose agent says so. */
  readonly node: string;
  /** As in the object's status; the message stays out, as it may quote what was asked for. */
  readonly reason: string;
  /** As that report has left it. */
  readonly object: AuditedObject;
}

/** Of how many objects it is remembered what was recorded. */
const maxRemembered = 10_000;

/** Records what agents have done about each change, beside their reports: nobody waits for it. */
export class Effects {
  readonly #audit: Pick<AuditLog, 'note'>;
  /** By uid: what was recorded of the newest generation. An agent that goes to and fro would fill the log. */
  readonly #recorded = new Map<string, { readonly generation: number; readonly whats: Set<string> }>();

  constructor(audit: Pick<AuditLog, 'note'>) {
    this.#audit = audit;
  }

  record(effects: readonly ReportedEffect[]): void {
    for (const { what, project, node, reason, object } of effects) {
      if (!this.#isNew(object, what)) continue;
      const entry = { ...nobody, kind: 'effect', method: '', code: what, project, message: reason } as const;
      this.#audit.note({ ...entry, subject: `node/${node}`, objects: [object] });
    }
  }

  #isNew({ uid, generation }: AuditedObject, what: string): boolean {
    const recorded = this.#recorded;
    const before = recorded.get(uid);
    recorded.delete(uid);
    if (what === 'removed') return true;
    const whats = before?.generation === generation ? before.whats : new Set<string>();
    const isNew = !whats.has(what);
    recorded.set(uid, { generation, whats: whats.add(what) });
    const oldest = recorded.size > maxRemembered ? recorded.keys().next() : undefined;
    if (oldest && !oldest.done) recorded.delete(oldest.value);
    return isNew;
  }
}
