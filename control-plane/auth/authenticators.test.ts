import test from 'ava';
import { UnavailableError } from '../domain/errors.ts';
import type { Principal } from '../domain/principal.ts';
import { firstOf } from './authenticators.ts';
import type { AuthenticateOptions, Authenticator } from './port.ts';

const rose: Principal = { subject: 'rose', project: 'red', role: 'member' };
const bert: Principal = { subject: 'bert', project: 'blue', role: 'member' };

const knows = (known: string, principal: Principal, asked: string[] = []): Authenticator => ({
  authenticate({ token }) {
    asked.push(token);
    return token === known ? principal : undefined;
  },
});
const later = (authenticator: Authenticator): Authenticator => ({
  authenticate: async (credentials, options) => authenticator.authenticate(credentials, options),
});
const away: Authenticator = {
  authenticate() {
    throw new UnavailableError('nobody answers');
  },
};

for (const [name, wrap] of [
  ['at once', (one: Authenticator) => one],
  ['later', later],
] as const) {
  test(`the first that knows the caller answers, and none after it is asked, ${name}`, async (t) => {
    const asked: string[] = [];
    const chain = firstOf([wrap(knows('a', rose)), wrap(knows('b', bert)), wrap(knows('c', bert, asked))]);
    t.is(await chain.authenticate({ token: 'a' }), rose);
    t.is(await chain.authenticate({ token: 'b' }), bert);
    t.deepEqual(asked, []);
    t.is(await chain.authenticate({ token: 'x' }), undefined);
    t.deepEqual(asked, ['x']);
  });

  test(`one that is away hides nobody's yes, and is the answer where nobody says yes, ${name}`, async (t) => {
    for (const order of [
      [away, knows('a', rose)],
      [knows('a', rose), away],
    ]) {
      const chain = firstOf(order.map(wrap));
      t.is(await chain.authenticate({ token: 'a' }), rose);
      await t.throwsAsync(async () => chain.authenticate({ token: 'x' }), { instanceOf: UnavailableError });
    }
    const mixed = firstOf([away, later(knows('a', rose)), away, knows('b', bert)]);
    t.is(await mixed.authenticate({ token: 'b' }), bert);
    await t.throwsAsync(async () => mixed.authenticate({ token: 'x' }), { message: 'nobody answers' });
  });
}

test('an answer that is at hand is not waited for', (t) => {
  const chain = firstOf([knows('a', rose), later(knows('b', bert))]);
  t.is(chain.authenticate({ token: 'a' }), rose);
});

test('all are told how old an answer may be', async (t) => {
  const seen: (AuthenticateOptions | undefined)[] = [];
  const spy: Authenticator = {
    authenticate(_credentials, options) {
      seen.push(options);
      return undefined;
    },
  };
  await firstOf([spy, later(spy), spy]).authenticate({ token: 'a' }, { maxAgeMs: 3_000 });
  t.deepEqual(seen, [{ maxAgeMs: 3_000 }, { maxAgeMs: 3_000 }, { maxAgeMs: 3_000 }]);
});

test('with none, nobody is let in', async (t) => {
  t.is(await firstOf([]).authenticate({ token: 'a' }), undefined);
});
