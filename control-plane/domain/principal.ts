import { DeniedError, InvalidError } from './errors.ts';

/** What a principal may do: `admin` everything in all projects, `member` read and write in its own, `reader` read in its own. */
export type Role = 'admin' | 'member' | 'reader';

/** Who is calling, and what for. Every query goes through the project. */
export interface Principal {
  readonly subject: string;
  readonly project: string;
  readonly role: Role;
  /** From when on it is nobody any more, in Unix milliseconds: its streams end then, too. Undefined: until its credentials are taken back. */
  readonly expireTimeMs?: number;
  /** Set for one call of an admin, which asks every project at once; `project` is {@link everyProject} then. */
  readonly everyProject?: true;
}

/** The header by which a call says which project it is for. */
export const projectHeader = 'x-baykeeper-project';

/** In that header: every project at once. */
export const everyProject = '-';

/** What a project can be called. */
export const projectPattern = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,62}$/;

/**
 * The caller as this call has it: in the project that it names. `reads`: whether the call only reads. Throws DeniedError for a project that is not the
 * caller's, whether there is one of that name or not, and InvalidError.
 */
export function inProject(principal: Principal, project: string, reads: boolean): Principal {
  if (project === principal.project) return principal;
  if (principal.role !== 'admin') {
    throw new DeniedError(`${principal.subject} has role ${principal.role} in project ${principal.project} only`);
  }
  if (project === everyProject) {
    if (!reads) throw new InvalidError(projectHeader, 'names one project in a call that changes something, not all');
    return { ...principal, project, everyProject: true };
  }
  if (!projectPattern.test(project)) {
    throw new InvalidError(
      projectHeader,
      `is a project of up to 63 letters, digits, "_", "." and "-", or "${everyProject}" for all`,
    );
  }
  return { ...principal, project };
}

/** Whether what is in a project is the caller's to see. */
export const mayUse = (principal: Principal, project: string): boolean =>
  principal.everyProject === true || principal.project === project;

/** The project to search. Undefined: all of them. */
export const projectOf = (principal: Principal): string | undefined =>
  principal.everyProject ? undefined : principal.project;
