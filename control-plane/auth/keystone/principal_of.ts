import type { TokenInfo } from '../../../proto/openstack/token.ts';
import { type Principal, projectPattern, type Role } from '../../domain/principal.ts';

/** Which role of Keystone, in lower case, is which of ours. */
export type RoleNames = ReadonlyMap<string, Role>;

/** The roles that every Keystone has since Rocky (https://docs.openstack.org/keystone/latest/admin/service-api-protection.html). */
export const defaultRoleNames: RoleNames = new Map([
  ['admin', 'admin'],
  ['member', 'member'],
  ['reader', 'reader'],
]);

const highestFirst: readonly Role[] = ['admin', 'member', 'reader'];

/** Who a token stands for here, or why for nobody. */
export function principalOf(
  token: TokenInfo,
  roleNames: RoleNames,
): Principal | { readonly refusal: string; readonly subject: string } {
  const subject = `${token.user.name}@${token.user.domain.name}`;
  const { project } = token;
  if (!project || project.isDomain) {
    const what = token.domain || project ? 'for a domain' : token.system ? 'for the system' : 'unscoped';
    return { subject, refusal: `the token of ${subject} is ${what}: ask Keystone for one of a project` };
  }
  if (!projectPattern.test(project.id)) {
    return { subject, refusal: `the project ${project.name} of ${subject} has an id that cannot be one here` };
  }
  const roles = new Set(token.roles.map((name) => roleNames.get(name.toLowerCase())));
  // An admin of any other project is not one of the cloud.
  if (roles.delete('admin')) roles.add(token.isAdminProject ? 'admin' : 'member');
  const role = highestFirst.find((each) => roles.has(each));
  if (!role) {
    return {
      subject,
      refusal: `${subject} has none of the roles ${[...roleNames.keys()].join(', ')} in project ${project.name} of Keystone`,
    };
  }
  return Object.freeze({ subject, project: project.id, role, expireTimeMs: token.expireTimeMs });
}
