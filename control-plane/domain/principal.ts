/** What a principal may do: `admin` everything in all projects, `member` read and write in its own, `reader` read in its own. */
export type Role = 'admin' | 'member' | 'reader';

/** Who is calling, and what for. Every query goes through the project. */
export interface Principal {
  readonly subject: string;
  readonly project: string;
  readonly role: Role;
  /** From when on it is nobody any more, in Unix milliseconds: its streams end then, too. Undefined: until its credentials are taken back. */
  readonly expireTimeMs?: number;
}
