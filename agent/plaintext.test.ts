import test from 'ava';
import { crossesNetworkInClear } from './plaintext.ts';

test('nothing is said in the clear but on the machine itself', (t) => {
  for (const url of [
    'https://bays.example.com:7480',
    'tls://bays.example.com:7482',
    'http://127.0.0.1:7480',
    'http://127.8.9.1',
    'http://[::1]:7480',
    'nats://localhost:4222',
  ]) {
    t.false(crossesNetworkInClear(url), url);
  }
  for (const url of [
    'http://bays.example.com:7480',
    'nats://bays.example.com:4222',
    'nats://10.0.0.1:4222',
    'nats://127.evil.example:1',
    'http://[::ffff:10.0.0.1]/',
    'http://localhost.evil.example',
    'rubbish',
  ]) {
    t.true(crossesNetworkInClear(url), url);
  }
});
