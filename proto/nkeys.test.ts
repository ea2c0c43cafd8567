import test from 'ava';
import { getEd25519Helper } from 'nkeys.js/lib/helper.js';
import { createUser, fromPublic } from './nkeys.ts';

const bytes = (hex: string) => new Uint8Array(Buffer.from(hex, 'hex'));

/** From RFC 8032, section 7.1. */
const vectors = [
  {
    seed: '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60',
    publicKey: 'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
    message: '',
    signature:
      'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
  },
  {
    seed: 'c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7',
    publicKey: 'fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025',
    message: 'af82',
    signature:
      '6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a',
  },
];

test('what is under nkeys.js is Ed25519', (t) => {
  const helper = getEd25519Helper();
  for (const { seed, publicKey, message, signature } of vectors) {
    const pair = helper.fromSeed(bytes(seed));
    t.deepEqual(pair, { publicKey: bytes(publicKey), secretKey: bytes(seed + publicKey) });
    t.deepEqual(helper.sign(bytes(message), pair.secretKey), bytes(signature));
    t.true(helper.verify(bytes(message), bytes(signature), bytes(publicKey)));
    t.false(helper.verify(bytes(`${message}00`), bytes(signature), bytes(publicKey)));
  }
});

test('a signature of another key, or that is none, is not good', (t) => {
  const [one, other] = [createUser(), createUser()];
  const data = bytes('af82');
  const key = fromPublic(one.getPublicKey());
  t.true(key.verify(data, one.sign(data)));
  t.false(key.verify(data, other.sign(data)));
  for (const length of [0, 1, 63, 65]) t.false(key.verify(data, new Uint8Array(length)));
});
