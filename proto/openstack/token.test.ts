import test from 'ava';
import fc from 'fast-check';
import { KeystoneError } from './errors.ts';
import { parseToken } from './token.ts';

const domain = { id: 'default', name: 'Default' };
const token = {
  user: { id: 'u1', name: 'alice', domain },
  project: { id: 'p1', name: 'red', domain },
  is_domain: false,
  roles: [{ id: 'r1', name: 'member' }],
  expires_at: '2026-11-22T19:20:41.000000Z',
  catalog: [
    { type: 'identity', endpoints: [{ interface: 'public', region: 'RegionOne', url: 'http://k.test/v3' }] },
    { type: 'compute', endpoints: [{ interface: 'public', region: null, url: 'http://c.test' }] },
  ],
};

test('a token is read as Keystone writes it', (t) => {
  t.deepEqual(parseToken({ token }), {
    user: { id: 'u1', name: 'alice', domain },
    project: { id: 'p1', name: 'red', domain, isDomain: false },
    system: false,
    roles: ['member'],
    isAdminProject: true,
    expireTimeMs: Date.UTC(2026, 10, 22, 19, 20, 41),
    catalog: [
      { type: 'identity', interface: 'public', region: 'RegionOne', url: 'http://k.test/v3' },
      { type: 'compute', interface: 'public', region: '', url: 'http://c.test' },
    ],
  });
  t.true(parseToken({ token: { ...token, project: undefined, system: { all: true } } }).system);
  t.false(parseToken({ token: { ...token, is_admin_project: false } }).isAdminProject);
  t.true(parseToken({ token: { ...token, is_domain: true } }).project?.isDomain);
});

test('whatever else it says is refused, and nothing of it gets in', (t) => {
  const paths = ['user', 'project', 'roles', 'expires_at', 'catalog', 'domain', 'system'] as const;
  const property = fc.property(fc.constantFrom(...paths), fc.jsonValue(), (field, value) => {
    try {
      const read = parseToken({ token: { ...token, [field]: value } });
      return (
        typeof read.user.id === 'string' &&
        Number.isFinite(read.expireTimeMs) &&
        read.roles.every((role) => role !== '')
      );
    } catch (error) {
      return error instanceof KeystoneError && error.failure === 'invalid';
    }
  });
  fc.assert(property, { numRuns: 2_000 });
  t.pass();
});
