import test from 'ava';
import { driverContract } from './contract.ts';
import { FakeEngine } from './fake.ts';

const driver = new FakeEngine({ now: () => Date.now(), images: ['busybox:test'] });
let port = 20_000;

driverContract(test, () => ({
  driver,
  image: 'busybox:test',
  freePort: async () => {
    port += 1;
    return port;
  },
}));
