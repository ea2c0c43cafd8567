import test from 'ava';
import { networkOf } from './ip.ts';

test('an address is counted by its network where it has plenty', (t) => {
  for (const [address, network] of [
    ['192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['::1', '0:0:0:0::/64'],
    ['2001:db8::1', '2001:db8:0:0::/64'],
    ['2001:DB8:0:0:ffff::9', '2001:db8:0:0::/64'],
    ['2001:db8:0:1::', '2001:db8:0:1::/64'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['fe80::1:2%eth0', 'fe80:0:0:0::/64'],
    ['', ''],
  ] as const) {
    t.is(networkOf(address), network, address);
  }
});
