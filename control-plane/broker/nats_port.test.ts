import { readFile } from 'node:fs/promises';
import test from 'ava';
import { BrokerError } from './broker_error.ts';
import { checkPortIsFree, freePort } from './nats_port.ts';

test('a port to keep is none that the kernel gives to connections', async (t) => {
  const range = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8');
  const [low = 0, high = 0] = range.split(/\s+/).map(Number);
  for (let i = 0; i < 20; i += 1) {
    const port = await freePort('127.0.0.1');
    t.true(port < low || port > high, `${port}`);
    await t.notThrowsAsync(checkPortIsFree('127.0.0.1', port));
  }
  await t.throwsAsync(freePort('192.0.2.1'), { instanceOf: BrokerError, message: /192\.0\.2\.1.*not an address/ });
});
