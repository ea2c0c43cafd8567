import { DeniedError } from '../../domain/errors.ts';
import { type Principal, projectPattern, type Role } from '../../domain/principal.ts';
import type { ClaimConfig } from './oidc_options.ts';

/** What a verified token says. */
export type Claims = Readonly<Record<string, unknown>>;

const ranks: readonly Role[] = ['admin', 'member', 'reader'];

/** Who a token's claims are about. Throws DeniedError when they give no rights here; of several roles the highest counts. */
export function principalOfClaims(claims: Claims, config: ClaimConfig): Omit<Principal, 'expireTimeMs'> {
  const subject = at(claims, config.subject);
  if (typeof subject !== 'string' || !/^[\x21-\x7e]{1,255}$/.test(subject)) {
    throw new DeniedError(`this token has no claim "${config.subject}" that says who it is`);
  }
  const found = listOf(at(claims, config.roles)).flatMap((name) =>
    Object.hasOwn(config.roleNames, name) ? [config.roleNames[name]] : [],
  );
  const role = ranks.find((rank) => found.includes(rank));
  if (!role) {
    throw new DeniedError(`${subject} has no role here: claim "${config.roles}" of the token names none`, { subject });
  }
  const projects = listOf(at(claims, config.project) ?? config.defaultProject);
  const [project, ...more] = projects;
  if (project === undefined) {
    throw new DeniedError(`${subject} has no project: the token has no claim "${config.project}"`, { subject });
  }
  if (more.length > 0 || !projectPattern.test(project)) {
    throw new DeniedError(`claim "${config.project}" of the token of ${subject} is not one project`, { subject });
  }
  return { subject, project, role };
}

/** A claim; where there is none of the whole name, the way that its dots show. */
function at(claims: Claims, name: string): unknown {
  if (Object.hasOwn(claims, name)) return claims[name];
  let value: unknown = claims;
  for (const part of name.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined;
    value = (value as Record<string, unknown>)[part];
  }
  return value;
}

const listOf = (value: unknown): readonly string[] =>
  (Array.isArray(value) ? value : [value]).filter((each) => typeof each === 'string');
