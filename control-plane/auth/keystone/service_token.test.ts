import test from 'ava';
import type { Cloud } from '../../../proto/openstack/cloud.ts';
import { KeystoneError, type KeystoneFailure } from '../../../proto/openstack/errors.ts';
import type { IssuedToken } from '../../../proto/openstack/keystone_client.ts';
import { ServiceToken } from './service_token.ts';

const domain = { id: 'default', name: 'Default' };
const cloud: Cloud = {
  name: 'own',
  authUrl: 'https://keystone.test/v3',
  credential: { kind: 'password', user: { id: 'u1' }, password: 'secret' },
  scope: { kind: 'unscoped' },
  region: '',
  interface: undefined,
  tls: { verify: true },
};

function setUp(more: Partial<Cloud> = {}, catalog: IssuedToken['info']['catalog'] = []) {
  const state = { nowMs: 0, issued: 0, passwords: [] as unknown[], lifeMs: 3_600_000, password: 'secret', no: '' };
  const service = new ServiceToken({
    clock: { now: () => state.nowMs },
    readCloud: async () => ({
      ...cloud,
      ...more,
      credential: { kind: 'password', user: { id: 'u1' }, password: state.password },
    }),
    client: {
      async issue(credential) {
        state.issued += 1;
        state.passwords.push('password' in credential ? credential.password : undefined);
        await new Promise(setImmediate);
        if (state.no) throw new KeystoneError(state.no as KeystoneFailure, 'no');
        const info = {
          user: { id: 'u1', name: 'baykeeper', domain },
          system: false,
          roles: [],
          isAdminProject: true,
          expireTimeMs: state.nowMs + state.lifeMs,
          catalog,
        };
        return { token: `token-${state.issued}`, info };
      },
    },
  });
  return { state, service };
}

test('it is asked for once for all who wait, and again a minute before its end', async (t) => {
  const { state, service } = setUp();
  const all = await Promise.all(Array.from({ length: 10 }, () => service.get()));
  t.deepEqual(new Set(all.map(({ token }) => token)), new Set(['token-1']));
  t.is(all[0]?.url, 'https://keystone.test/v3');
  state.nowMs = 3_600_000 - 60_001;
  t.is((await service.get()).token, 'token-1');
  state.nowMs += 1;
  t.is((await service.get()).token, 'token-2');
});

test('one of a short life is renewed at three quarters of it', async (t) => {
  const { state, service } = setUp();
  state.lifeMs = 4_000;
  await service.get();
  state.nowMs = 2_999;
  t.is((await service.get()).token, 'token-1');
  state.nowMs = 3_000;
  t.is((await service.get()).token, 'token-2');
});

test('one that was refused is renewed, once for all who had it, with the password of now', async (t) => {
  const { state, service } = setUp();
  await service.get();
  state.password = 'changed';
  await Promise.all([service.get('token-1'), service.get('token-1')]);
  t.is((await service.get('token-1')).token, 'token-2');
  t.deepEqual(state.passwords, ['secret', 'changed']);
});

test('a credential that Keystone refuses is not tried again by each call, and one that is away is', async (t) => {
  const { state, service } = setUp();
  const fails = () => t.throwsAsync(service.get(), { instanceOf: KeystoneError });
  for (const [no, issued] of [
    ['unauthorized', 1],
    ['unavailable', 4],
  ] as const) {
    Object.assign(state, { no, issued: 0, nowMs: state.nowMs + 5_000 });
    for (let i = 0; i < 4; i += 1) t.is((await fails())?.failure, no);
    t.is(state.issued, issued);
  }
  state.no = 'unauthorized';
  await fails();
  state.no = '';
  state.nowMs += 4_999;
  await fails();
  state.nowMs += 1;
  t.truthy(await service.get());
});

test('the catalogue says where the identity service of a region is', async (t) => {
  const entry = (region: string, kind: string, url: string, type = 'identity') => ({
    type,
    region,
    interface: kind,
    url,
  });
  const catalog = [
    entry('one', 'public', 'https://compute.test', 'compute'),
    entry('one', 'public', 'https://one.test/identity'),
    entry('two', 'public', 'https://two.test/v3/'),
    entry('two', 'internal', 'https://internal.two.test:5000'),
    entry('clear', 'public', 'http://clear.test/v3'),
    entry('odd', 'public', 'ftp://odd.test/v3'),
  ];
  const url = async (more: Partial<Cloud>) => (await setUp(more, catalog).service.get()).url;
  t.is(await url({}), 'https://keystone.test/v3');
  t.is(await url({ region: 'one' }), 'https://one.test/identity/v3');
  t.is(await url({ region: 'two' }), 'https://two.test/v3');
  t.is(await url({ region: 'two', interface: 'internal' }), 'https://internal.two.test:5000/v3');
  t.is(await url({ interface: 'internal' }), 'https://internal.two.test:5000/v3');
  await t.throwsAsync(url({ region: 'three' }), {
    message: /no identity endpoint that is public in region three; it has: public in one, /,
  });
  await t.throwsAsync(url({ region: 'clear' }), { message: /where tokens would be in clear/ });
  const ownMachine = { authUrl: 'http://127.0.0.1:5000/v3', region: 'clear' };
  await t.throwsAsync(url(ownMachine), { message: /where tokens would be in clear/ });
  t.is(await url({ ...ownMachine, authUrl: 'http://keystone.test/v3' }), 'http://clear.test/v3');
  await t.throwsAsync(url({ region: 'odd' }), { message: /expected the address of Keystone/ });
});
