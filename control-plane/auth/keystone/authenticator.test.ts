import test from 'ava';
import { pino } from 'pino';
import { KeystoneError } from '../../../proto/openstack/errors.ts';
import type { TokenInfo } from '../../../proto/openstack/token.ts';
import { DeniedError, ExhaustedError, UnavailableError } from '../../domain/errors.ts';
import { KeystoneAuthenticator } from './authenticator.ts';
import { defaultRoleNames } from './principal_of.ts';

const domain = { id: 'default', name: 'Default' };
const alice: TokenInfo = {
  user: { id: 'u1', name: 'alice', domain },
  project: { id: 'p1', name: 'red', domain, isDomain: false },
  system: false,
  roles: ['member', 'reader'],
  isAdminProject: true,
  expireTimeMs: 1_000_000,
  catalog: [],
};
const token = (name: string) => `gAAAAA${name.padEnd(40, '_')}`;

/** An authenticator over a Keystone that says what the test has it say. */
function setUp(options: { cacheMs?: number; mostAnswers?: number } = {}) {
  const state = { nowMs: 0, asked: [] as string[], own: [] as string[] };
  const script = {
    validate: async (_subject: string, _own: string): Promise<TokenInfo | undefined> => alice,
  };
  const authenticator = new KeystoneAuthenticator({
    client: {
      validate: ({ subject, token: own }) => {
        state.asked.push(subject);
        return script.validate(subject, own);
      },
    },
    service: {
      get: async (not) => {
        state.own.push(not ?? '');
        return { token: not === undefined ? 'first' : 'second', url: 'http://127.0.0.1/v3' };
      },
    },
    roleNames: defaultRoleNames,
    cacheMs: 60_000,
    clock: { now: () => state.nowMs },
    log: pino({ level: 'silent' }),
    ...options,
  });
  const ask = async (name: string, maxAgeMs?: number) =>
    authenticator.authenticate({ token: token(name) }, maxAgeMs === undefined ? {} : { maxAgeMs });
  return { state, script, authenticator, ask };
}

const away = () => Promise.reject(new KeystoneError('unavailable', 'away'));

test('an answer is at hand until it is too old, at once and without a promise', async (t) => {
  const { state, authenticator, ask } = setUp();
  t.deepEqual(await ask('a'), { subject: 'alice@Default', project: 'p1', role: 'member', expireTimeMs: 1_000_000 });
  state.nowMs = 60_000;
  t.like(authenticator.authenticate({ token: token('a') }), { subject: 'alice@Default' });
  t.is(state.asked.length, 1);
  state.nowMs = 60_001;
  await ask('a');
  t.is(state.asked.length, 2);
  // A clock that goes back makes nothing younger than it is.
  state.nowMs = 0;
  await ask('a');
  t.is(state.asked.length, 3);
});

test('Keystone is not asked about new tokens from where too many came, and still about those that it knew', async (t) => {
  const { state, script, authenticator, ask } = setUp();
  await ask('a');
  script.validate = async () => undefined;
  await ask('none');
  state.nowMs = 60_001;
  const mayAsk = () => false;
  for (const name of ['new', 'none']) {
    t.throws(() => authenticator.authenticate({ token: token(name) }, { mayAsk }), { instanceOf: ExhaustedError });
  }
  t.is(state.asked.length, 2);
  await authenticator.authenticate({ token: token('a') }, { mayAsk });
  t.is(state.asked.length, 3);
});

test('a newer answer can be asked for, and is done without while Keystone is away', async (t) => {
  const { state, script, ask } = setUp();
  await ask('a');
  state.nowMs = 4_000;
  await ask('a', 5_000);
  t.is(state.asked.length, 1);
  state.nowMs = 6_000;
  await ask('a', 5_000);
  t.is(state.asked.length, 2);
  script.validate = away;
  state.nowMs = 20_000;
  t.like(await ask('a', 5_000), { subject: 'alice@Default' });
  state.nowMs = 66_001;
  await t.throwsAsync(ask('a', 5_000), { instanceOf: UnavailableError });
  script.validate = async () => undefined;
  state.nowMs = 80_000;
  t.is(await ask('a'), undefined);
});

test('what was good and is no more is nobody at the next question', async (t) => {
  const { state, script, ask } = setUp();
  await ask('a');
  script.validate = async () => undefined;
  state.nowMs = 10_000;
  t.is(await ask('a', 1_000), undefined);
  // Not remembered as good, either.
  t.is(await ask('a'), undefined);
  t.is(state.asked.length, 2);
});

test('a token ends when its time is over, whatever is remembered', async (t) => {
  const { state, ask } = setUp({ cacheMs: 2_000_000 });
  t.truthy(await ask('a'));
  state.nowMs = 999_999;
  t.truthy(await ask('a'));
  state.nowMs = 1_000_000;
  t.is(await ask('a'), undefined);
  t.is(state.asked.length, 1);
});

test('those who ask at once about one token are answered by one question', async (t) => {
  const { state, script, ask } = setUp();
  const { promise, resolve } = Promise.withResolvers<TokenInfo>();
  script.validate = () => promise;
  const asking = Array.from({ length: 50 }, () => ask('a'));
  resolve(alice);
  for (const answer of await Promise.all(asking)) t.like(answer, { subject: 'alice@Default' });
  t.is(state.asked.length, 1);
});

test('what is no token is remembered for a moment, apart from what is one, and both within bounds', async (t) => {
  const { state, script, ask } = setUp({ mostAnswers: 10 });
  await ask('good');
  script.validate = async () => undefined;
  for (let i = 0; i < 100; i += 1) t.is(await ask(`bad${i}`), undefined);
  t.is(state.asked.length, 101);
  t.truthy(await ask('good'));
  await ask('bad99');
  t.is(state.asked.length, 101);
  await ask('bad0');
  t.is(state.asked.length, 102);
  state.nowMs = 5_001;
  await ask('bad99');
  t.is(state.asked.length, 103);
});

test('what cannot be a token of Keystone is not sent there', async (t) => {
  const { state, authenticator } = setUp();
  const others = [
    '',
    'secret',
    'gAAAA',
    `gAAAA${'x'.repeat(10_000)}`,
    `gAAAAA${'é'.repeat(40)}`,
    'a'.repeat(43),
    'eyJhbGciOiJub25lIn0.e30.',
  ];
  for (const other of others) t.is(authenticator.authenticate({ token: other }), undefined);
  t.deepEqual(state.asked, []);
});

test('signed JSON is sent to Keystone when it has the claims of one', async (t) => {
  const { state, authenticator } = setUp();
  const signed = (claims: object, header = '{"alg":"ES256","typ":"JWT"}') =>
    [header, JSON.stringify(claims), 'signature'].map((part) => Buffer.from(part).toString('base64url')).join('.');
  t.is(authenticator.authenticate({ token: signed({ iss: 'https://issuer.test', sub: 'alice' }) }), undefined);
  const claims = { sub: 'u1', exp: 1, openstack_methods: ['password'] };
  // A Keystone breaks off at signatures of a kind that are not its own.
  for (const header of [
    '{"alg":"none"}',
    '{"alg":"HS256"}',
    '{"alg":7}',
    '{"alg":"ES256","alg":"none"}',
    '{"typ":"JWT"',
    '[]',
  ]) {
    t.is(authenticator.authenticate({ token: signed(claims, header) }), undefined, header);
  }
  const own = signed(claims);
  t.like(await authenticator.authenticate({ token: own }), { subject: 'alice@Default' });
  t.deepEqual(state.asked, [own]);
});

test('a token without rights here is refused with the reason, and remembered', async (t) => {
  const { state, script, ask } = setUp();
  const { project: _project, ...unscoped } = alice;
  script.validate = async () => unscoped;
  for (let i = 0; i < 3; i += 1) {
    await t.throwsAsync(ask('a'), { instanceOf: DeniedError, message: /alice@Default is unscoped/ });
  }
  t.is(state.asked.length, 1);
});

test('the own token that Keystone does not know any more is renewed, once', async (t) => {
  const { state, script, ask } = setUp();
  const unauthorized = () => Promise.reject(new KeystoneError('unauthorized', 'who asks?'));
  script.validate = (_subject, own) => (own === 'first' ? unauthorized() : Promise.resolve(alice));
  t.truthy(await ask('a'));
  t.deepEqual(state.own, ['', 'first']);
  script.validate = unauthorized;
  await t.throwsAsync(ask('b'), { instanceOf: UnavailableError });
  t.is(state.asked.length, 4);
});

test('it is UNAVAILABLE, and never nobody, when Keystone says what cannot be understood or forbids to ask', async (t) => {
  const { script, ask } = setUp();
  for (const failure of ['unavailable', 'unauthorized', 'forbidden', 'invalid'] as const) {
    script.validate = () => Promise.reject(new KeystoneError(failure, 'the secret of why'));
    const error = await t.throwsAsync(ask(failure), { instanceOf: UnavailableError });
    t.notRegex(error?.message ?? '', /secret of why/);
  }
});

test('tokens that Keystone fails at make it away for nobody else', async (t) => {
  const { state, script, ask } = setUp();
  script.validate = async (subject) => (subject.includes('bad') ? away() : alice);
  for (let i = 0; i < 10; i += 1) {
    await t.throwsAsync(ask(`bad${i}`), { instanceOf: UnavailableError });
    t.like(await ask(`good${i}`), { subject: 'alice@Default' });
  }
  // Of each that it fails at, it is asked once whether it is there: about the token that asks.
  t.is(state.asked.filter((subject) => subject === 'first').length, 10);
});
