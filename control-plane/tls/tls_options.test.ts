import test from 'ava';
import { Command, type CommanderError } from 'commander';
import { addExposureOptions, type ExposureConfig, readExposureOptions, urlOf } from './tls_options.ts';

/** What a command line comes to. Throws what is wrong with it. */
function read(...argv: string[]): ExposureConfig {
  const command = new Command()
    .option('--host <address>', '', '127.0.0.1')
    .option('--nats-url <url...>')
    .exitOverride()
    .configureOutput({ writeErr: () => undefined });
  addExposureOptions(command).parse(argv, { from: 'user' });
  return readExposureOptions(command);
}
const names = (config: ExposureConfig) => (config.tls.kind === 'off' ? undefined : config.tls.names);

test('there is TLS where others could listen in, and where it is asked for', (t) => {
  t.deepEqual(read().tls, { kind: 'off' });
  for (const host of ['127.0.0.1', '127.8.9.1', '::1', '0:0:0:0:0:0:0:1', 'localhost']) {
    t.is(read('--host', host).tls.kind, 'off', host);
  }
  for (const host of ['0.0.0.0', '::', '10.0.0.1', 'bays.example.com', '127.example.com']) {
    t.is(read('--host', host).tls.kind, 'own', host);
  }
  t.is(read('--nats-host', '10.0.0.1').tls.kind, 'own', 'the broker is reason enough');
  t.is(read('--tls', 'on').tls.kind, 'own');
  t.is(read('--tls-cert', 'a', '--tls-key', 'b').tls.kind, 'given');
});

test('a certificate is for every name by which somebody comes', (t) => {
  const local = ['localhost', '127.0.0.1', '::1'];
  t.deepEqual(names(read('--host', '10.0.0.1')), ['10.0.0.1', ...local]);
  const far = read('--host', '0.0.0.0', '--advertise', 'a.example:443', '[fd00::1]:7480', '--tls-san', 'b.example');
  t.deepEqual(names(far), ['a.example', 'fd00::1', 'b.example', ...local]);
  t.deepEqual(far.advertise, [
    { host: 'a.example', port: 443 },
    { host: 'fd00::1', port: 7480 },
  ]);
  t.deepEqual(far.natsAdvertise, [
    { host: 'a.example', port: undefined },
    { host: 'fd00::1', port: undefined },
  ]);
  t.deepEqual(
    far.advertise.map((one) => urlOf('https', one, 1)),
    ['https://a.example:443', 'https://[fd00::1]:7480'],
  );
  t.is(read('--host', '0.0.0.0').advertise.length, 1, "the machine's own name");
  t.deepEqual(read('--host', '10.0.0.1').natsAdvertise, [], 'where it listens');
  t.deepEqual(
    read('--nats-url', 'tls://x:1', '--advertise', 'a.example').natsAdvertise,
    [],
    'another broker is elsewhere',
  );
});

test('a broker that is given listens where it likes', (t) => {
  t.is(read('--tls', 'off', '--nats-url', 'tls://x:1', '--nats-host', '10.0.0.1').tls.kind, 'off');
});

test('what cannot be is refused, and named', (t) => {
  const cases: [string[], RegExp][] = [
    [['--advertise', 'a.example:0'], /a\.example:0: expected HOST or HOST:PORT/],
    [['--advertise', 'a b'], /"a b": expected the name of a host/],
    [['--advertise', '-x'], /"-x": expected the name/],
    [['--tls-san', '*;'], /"\*;": expected the name/],
    [['--tls-cert', 'a'], /--tls-cert and --tls-key go together/],
    [['--tls-ca', 'a'], /--tls-ca goes with --tls-cert/],
    [['--tls-cert', 'a', '--tls-key', 'b', '--tls', 'off'], /--tls off exclude/],
    [['--nats-ca', 'a'], /--nats-ca goes with --nats-url/],
    [['--tls', 'off', '--host', '0.0.0.0'], /cannot listen on every address without TLS/],
    [['--tls', 'off', '--host', 'bays.example.com'], /cannot listen on bays\.example\.com without TLS/],
    [['--tls', 'off', '--nats-host', '::'], /cannot listen on every address without TLS/],
    [['--tls', 'off', '--nats-host', '10.0.0.1'], /cannot listen on 10\.0\.0\.1 without TLS/],
    [['--tls-leaf-ttl', '5'], /must be a duration/],
  ];
  for (const [argv, message] of cases) t.throws<CommanderError>(() => read(...argv), { message }, argv.join(' '));
});
