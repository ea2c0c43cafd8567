import test from 'ava';
import { pino } from 'pino';
import { readConfig } from './config.ts';
import { openExposure } from './exposure.ts';

const around = { log: pino({ level: 'silent' }), clock: Date };

test('nobody is told to come in the clear from elsewhere, though TLS be somebody else’s who stands before us', async (t) => {
  const near = await openExposure(readConfig(['--data', '/nowhere', '--port', '7480']), around);
  t.teardown(() => near.close());
  t.deepEqual(near.trust.serverUrls, ['http://127.0.0.1:7480']);
  const advertised = ['--advertise', 'bays.example.com:443', '--advertise', '127.0.0.1'];
  const proxied = await openExposure(readConfig(['--data', '/nowhere', '--port', '7480', ...advertised]), around);
  t.teardown(() => proxied.close());
  t.deepEqual(proxied.trust.serverUrls, ['https://bays.example.com:443', 'http://127.0.0.1:7480']);
  t.deepEqual(proxied.brokerOptions.advertiseUrls?.(7482), ['tls://bays.example.com:7482', 'nats://127.0.0.1:7482']);
});
