import test from 'ava';
import { allowAll, judge, PolicyError, readPolicy, refusal, restricts, summary } from './policy.ts';

const read = (value: unknown) => readPolicy(value, 'agent.yaml');
const forbids = (rules: object, rule: Parameters<typeof judge>[1][number]['rule'], value: string, writable = true) =>
  judge(read({ default: 'allow', ...rules }), [{ rule, value, writable, field: 'f' }]).length > 0;

test('what the default says holds for the rules that are not given', (t) => {
  const strict = read({ default: 'forbid', images: ['busybox'] });
  t.is(judge(strict, [{ rule: 'hostPID', value: 'true', field: 'spec.hostPID' }]).length, 1);
  t.deepEqual(judge(strict, [{ rule: 'images', value: 'busybox', field: 'spec.image' }]), []);
  t.true(restricts(strict));
  const open = read({ default: 'allow' });
  t.deepEqual(judge(open, [{ rule: 'privileged', value: 'true', field: '' }]), []);
  t.false(restricts(open) || restricts(allowAll));
  t.is(
    summary(strict),
    'privileged: forbid, hostNetwork: forbid, hostPID: forbid, hostIPC: forbid, exec: forbid, hostPorts: forbid, ' +
      'hostMounts: forbid, capabilities: forbid, images: docker.io/library/busybox',
  );
});

test('a path is allowed where it is in an allowed folder, and nowhere else', (t) => {
  const rules = { hostMounts: ['/srv/data/', { path: '/var/log', readOnly: true }] };
  for (const path of ['/srv/data', '/srv/data/a/b', '//srv//data/a', '/srv/data/', '/srv/./data/.', '/srv/data/..a'])
    t.false(forbids(rules, 'hostMounts', path), path);
  for (const path of [
    '/',
    '/srv',
    '/srv/database',
    '/srv/data/../x',
    '/srv/data/../../etc',
    '/srv/data/..',
    '/etc/../srv/data',
    '//etc',
    '/./etc/',
    'srv/data',
    '',
    '/etc',
    '/srv/data\0/../..',
  ])
    t.true(forbids(rules, 'hostMounts', path), path);
  t.true(forbids(rules, 'hostMounts', '/var/log/x'));
  t.false(forbids(rules, 'hostMounts', '/var/log/x', false));
  t.false(forbids({ hostMounts: ['/'] }, 'hostMounts', '/etc'));
  t.true(forbids({ hostMounts: [] }, 'hostMounts', '/etc'));
});

test('why a path is refused is said', (t) => {
  const policy = read({ default: 'allow', hostMounts: ['/srv'] });
  const why = (value: string) =>
    judge(policy, [{ rule: 'hostMounts', value, writable: true, field: 'f' }])[0]?.message ?? '';
  t.regex(why('/srv/../etc'), /the mount of \/srv\/..\/etc of the node, which is no absolute path without \.\.$/);
  t.regex(why('//etc/'), /allowed is what is in \/srv$/);
});

test('a port is allowed where it is in a range, and one that is chosen on the node in none', (t) => {
  const rules = { hostPorts: [8080, '443', '30000-32767'] };
  for (const port of ['8080', '443', '30000', '31000', '32767']) t.false(forbids(rules, 'hostPorts', port), port);
  for (const port of ['80', '0', '8081', '29999', '32768', '', '8080 ', '{}'])
    t.true(forbids(rules, 'hostPorts', port), port);
  t.true(forbids({ hostPorts: ['1-65535'] }, 'hostPorts', '0'));
  t.true(forbids({ hostPorts: 'forbid' }, 'hostPorts', '8080'));
  const [violation] = judge(read({ default: 'allow', ...rules }), [{ rule: 'hostPorts', value: '80', field: 'f' }]);
  t.is(violation?.message, 'the port 80 of the node; allowed: 8080 443 30000-32767');
  t.regex(summary(read({ default: 'allow', ...rules })), /hostPorts: 8080 443 30000-32767, hostMounts: allow/);
});

test('capabilities are the same with and without CAP_, and ALL is one of its own', (t) => {
  const rules = { capabilities: ['cap_net_admin'] };
  for (const name of ['NET_ADMIN', 'CAP_NET_ADMIN', 'net_admin']) t.false(forbids(rules, 'capabilities', name), name);
  for (const name of ['ALL', 'SYS_ADMIN', 'CAP_CAP_NET_ADMIN']) t.true(forbids(rules, 'capabilities', name), name);
});

test('where privileged is forbidden, capabilities that come to the same are not left allowed, unless the owner says so', (t) => {
  for (const name of ['SYS_ADMIN', 'ALL', 'SYS_MODULE', 'NET_ADMIN'])
    t.true(forbids({ privileged: 'forbid' }, 'capabilities', name), name);
  for (const name of ['CHOWN', 'CAP_NET_BIND_SERVICE'])
    t.false(forbids({ privileged: 'forbid' }, 'capabilities', name), name);
  t.false(forbids({ privileged: 'forbid', capabilities: ['SYS_ADMIN'] }, 'capabilities', 'SYS_ADMIN'));
  t.false(forbids({ privileged: 'forbid', capabilities: 'allow' }, 'capabilities', 'ALL'));
  t.true(forbids({ default: 'forbid', privileged: 'forbid' }, 'capabilities', 'CHOWN'));
  t.regex(summary(read({ default: 'allow', privileged: 'forbid' })), /capabilities: AUDIT_WRITE CHOWN .* and 5 more/);
});

test('everything that is forbidden is named, with its field', (t) => {
  const policy = read({ default: 'forbid' });
  const violations = judge(policy, [
    { rule: 'privileged', value: 'true', field: 'spec.containers[0].securityContext.privileged' },
    { rule: 'hostMounts', value: '/etc', writable: true, field: 'spec.volumes[0].hostPath.path' },
  ]);
  t.is(
    refusal(policy, violations),
    'the policy of the node (agent.yaml) forbids this: spec.containers[0].securityContext.privileged: privileged containers (true), and ' +
      'spec.volumes[0].hostPath.path: the mount of /etc of the node',
  );
});

test('what cannot be is refused with its field, and what was expected', (t) => {
  const cases: [unknown, RegExp][] = [
    [undefined, /^expected a mapping/],
    [null, /^expected a mapping/],
    [[], /^expected a mapping/],
    [{}, /^default: expected allow or forbid/],
    [{ default: true }, /^default: expected allow or forbid/],
    [{ default: 'allow', privilegd: 'forbid' }, /^privilegd: there is no such rule: expected default, privileged/],
    [{ default: 'allow', __proto__x: 1 }, /^__proto__x: there is no such rule/],
    [{ default: 'allow', privileged: false }, /^privileged: expected allow or forbid$/],
    [{ default: 'allow', exec: null }, /^exec: expected allow or forbid$/],
    [{ default: 'allow', exec: [] }, /^exec: expected allow or forbid$/],
    [{ default: 'allow', images: 'busybox' }, /^images: expected allow, forbid, or a list/],
    [{ default: 'allow', images: ['a', 'b:1'] }, /^images\[1\]: expected a registry/],
    [{ default: 'allow', hostMounts: ['srv'] }, /^hostMounts\[0\]\.path: expected an absolute path/],
    [{ default: 'allow', hostMounts: ['/srv/../etc'] }, /^hostMounts\[0\]\.path: expected an absolute path/],
    [
      { default: 'allow', hostMounts: [{ path: '/srv', readonly: true }] },
      /^hostMounts\[0\]\.readonly: there is no such field/,
    ],
    [
      { default: 'allow', hostMounts: [{ path: '/srv', readOnly: 'yes' }] },
      /^hostMounts\[0\]\.readOnly: expected true or false/,
    ],
    [{ default: 'allow', hostPorts: 8080 }, /^hostPorts: expected allow, forbid, or a list/],
    ...[0, 65536, -1, 80.5, '90-80', '1-', '-1', '80,81', true, null, [80], { port: 80 }].map(
      (port): [unknown, RegExp] => [{ default: 'allow', hostPorts: [port] }, /^hostPorts\[0\]: expected a port from 1/],
    ),
    [{ default: 'allow', capabilities: [7] }, /^capabilities\[0\]: expected the name/],
  ];
  for (const [value, message] of cases) t.throws(() => read(value), { instanceOf: PolicyError, message });
});
