import test from 'ava';
import type { TokenInfo } from '../../../proto/openstack/token.ts';
import { defaultRoleNames, principalOf } from './principal_of.ts';

const domain = { id: 'default', name: 'Default' };
const token = (more: Partial<TokenInfo>): TokenInfo => ({
  user: { id: 'u1', name: 'alice', domain },
  project: { id: '7619e6190f49410085f5d1e44295f6c4', name: 'red team', domain, isDomain: false },
  system: false,
  roles: [],
  isAdminProject: true,
  expireTimeMs: 5,
  catalog: [],
  ...more,
});

test('the highest role counts, in whichever case it is written', (t) => {
  for (const [roles, role] of [
    [['reader'], 'reader'],
    [['other', 'Member', 'reader'], 'member'],
    [['reader', 'ADMIN', 'member'], 'admin'],
  ] as const) {
    const expected = { subject: 'alice@Default', project: '7619e6190f49410085f5d1e44295f6c4', role, expireTimeMs: 5 };
    t.deepEqual(principalOf(token({ roles }), defaultRoleNames), expected);
  }
});

test('an admin of a project that is not the one of the admins is a member', (t) => {
  t.like(principalOf(token({ roles: ['admin'], isAdminProject: false }), defaultRoleNames), { role: 'member' });
});

test('roles may have other names, and then have no others', (t) => {
  const names = new Map([['operator', 'member'] as const]);
  t.like(principalOf(token({ roles: ['operator'] }), names), { role: 'member' });
  t.like(principalOf(token({ roles: ['admin', 'member'] }), names), {
    refusal: 'alice@Default has none of the roles operator in project red team of Keystone',
  });
});

test('a token of something else than a project is nobody here', (t) => {
  const roles = ['admin'];
  const none = { project: undefined, roles };
  for (const [more, what] of [
    [{ ...none, domain }, 'for a domain'],
    [{ ...none, system: true }, 'for the system'],
    [none, 'unscoped'],
    [{ roles, project: { ...domain, domain, isDomain: true } }, 'for a domain'],
  ] as const) {
    const { refusal } = principalOf(token(more), defaultRoleNames) as { refusal: string };
    t.is(refusal, `the token of alice@Default is ${what}: ask Keystone for one of a project`);
  }
  const odd = token({ roles, project: { id: '-', name: 'x', domain, isDomain: false } });
  t.regex((principalOf(odd, defaultRoleNames) as { refusal: string }).refusal, /an id that cannot be one here/);
});
