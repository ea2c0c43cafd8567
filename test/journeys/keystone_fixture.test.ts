import test from 'ava';
import { startKeystone } from '../harness/keystone/keystone.ts';

test('the fixture is a whole Keystone: it issues, validates and revokes tokens, and goes and comes back', async (t) => {
  await using keystone = await startKeystone();
  const [alice, service] = await Promise.all([
    keystone.token('alice'),
    keystone.token('baykeeper', { project: 'service' }),
  ]);
  const validate = (token: string) =>
    keystone.request('GET', '/auth/tokens?nocatalog', { token: service, headers: { 'x-subject-token': token } });
  const { body } = await validate(alice);
  t.is(body.token.project.id, keystone.projects.red);
  t.is(body.token.user.id, keystone.users.alice);
  t.deepEqual(body.token.roles.map((role: { name: string }) => role.name).sort(), ['member', 'reader']);
  await t.throwsAsync(keystone.token('alice', { project: 'blue' }), { message: /401/ });

  await keystone.stop();
  await t.throwsAsync(validate(alice));
  await keystone.start();
  t.is((await validate(alice)).status, 200);
  const revoked = await keystone.request('DELETE', '/auth/tokens', {
    token: alice,
    headers: { 'x-subject-token': alice },
  });
  t.is(revoked.status, 204);
  t.is((await validate(alice)).status, 404);
});
