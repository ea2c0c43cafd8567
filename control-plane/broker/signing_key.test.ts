import { randomBytes } from 'node:crypto';
import test from 'ava';
import { createAccount, createOperator, createUser, fromPublic } from '../../proto/nkeys.ts';
import { SigningKey } from './signing_key.ts';

test('it signs just as nkeys.js does', (t) => {
  for (const create of [createOperator, createAccount, createUser]) {
    for (let i = 0; i < 5; i += 1) {
      const pair = create();
      const key = new SigningKey(pair);
      const data = randomBytes(i * 100);
      t.deepEqual(Buffer.from(key.sign(data)), Buffer.from(pair.sign(data)));
      t.true(fromPublic(key.getPublicKey()).verify(data, key.sign(data)));
      t.is(key.getPublicKey(), pair.getPublicKey());
    }
  }
});

test('a key without a seed is refused', (t) => {
  t.throws(() => new SigningKey(fromPublic(createUser().getPublicKey())));
});
