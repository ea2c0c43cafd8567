import test from 'ava';
import { ClusterError } from '../cluster_error.ts';
import { parseKubeconfig } from './kubeconfig.ts';

const pem = '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n';
const base64 = Buffer.from(pem).toString('base64');

const whole = `apiVersion: v1
kind: Config
current-context: site
clusters:
- name: other
  cluster: {server: "https://10.0.0.2:6443"}
- name: site
  cluster:
    server: https://10.0.0.1:6443/
    certificate-authority-data: ${base64}
    tls-server-name: kubernetes
    proxy-url: http://proxy:3128
contexts:
- name: site
  context: {cluster: site, user: admin, namespace: shop}
- name: anonymous
  context: {cluster: other}
- name: lost
  context: {cluster: nowhere, user: admin}
users:
- name: admin
  user:
    client-certificate: certs/admin.pem
    client-key-data: ${base64}
    tokenFile: /run/token
    token: s3cret
    as: somebody
    as-groups: [a, b]
- name: cloud
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: ./bin/login
      args: [--cluster, site]
      env: [{name: REGION, value: north}]
      installHint: get it at the shop
      provideClusterInfo: true
`;

const parse = (text: string, context?: string) => parseKubeconfig([{ path: '/etc/kube/config', text }], context);

function message(text: string, context?: string): string {
  try {
    parse(text, context);
  } catch (error) {
    if (error instanceof ClusterError && error.kind === 'unauthorized') return error.message;
    throw error;
  }
  return '';
}

test('a context is read with all that it names; paths are relative to the file', (t) => {
  t.deepEqual(parse(whole), {
    source: 'the kubeconfig /etc/kube/config',
    server: 'https://10.0.0.1:6443',
    ca: { text: pem },
    skipTlsVerify: false,
    tlsServerName: 'kubernetes',
    proxyUrl: 'http://proxy:3128/',
    user: {
      certificate: { file: '/etc/kube/certs/admin.pem' },
      key: { text: pem },
      token: { file: '/run/token' },
      basic: undefined,
      exec: undefined,
      impersonate: { 'Impersonate-User': 'somebody', 'Impersonate-Group': ['a', 'b'] },
    },
  });
});

test('a context is chosen by name, and may have no user', (t) => {
  t.like(parse(whole, 'anonymous'), { server: 'https://10.0.0.2:6443', ca: undefined, user: { token: undefined } });
});

test('a credential plugin is read; a path in its command is relative to the file', (t) => {
  t.deepEqual(parse(whole.replace('user: admin, namespace', 'user: cloud, namespace')).user.exec, {
    apiVersion: 'client.authentication.k8s.io/v1',
    command: '/etc/kube/bin/login',
    args: ['--cluster', 'site'],
    env: { REGION: 'north' },
    installHint: 'get it at the shop',
    provideClusterInfo: true,
    folder: '/etc/kube',
  });
});

test('of several files the first that has a name wins', (t) => {
  const first = `current-context: site
clusters: [{name: site, cluster: {server: "https://first"}}]
`;
  const access = parseKubeconfig([
    { path: '/a/config', text: first },
    { path: '/b/config', text: whole },
  ]);
  t.is(access.server, 'https://first');
  t.deepEqual(access.user.certificate, { file: '/b/certs/admin.pem' });
});

const site = (cluster: string) =>
  whole.replace(/server: https:\/\/10\.0\.0\.1:6443\/[\s\S]*?contexts:/, `${cluster}\ncontexts:`);
const admin = (user: string) => whole.replace(/client-certificate: certs[\s\S]*$/, user);

for (const [what, text, context, expected] of [
  ['empty', '', '', '/etc/kube/config: is no kubeconfig: expected a YAML mapping'],
  ['no YAML', 'a: [', '', '/etc/kube/config: line 1, column 5 is no YAML (BAD_INDENT)'],
  ['a list', '- a', '', '/etc/kube/config: is no kubeconfig: expected a YAML mapping'],
  ['another kind', 'kind: Pod', '', '/etc/kube/config: kind: expected Config'],
  [
    'no context',
    'clusters: []',
    '',
    'the kubeconfig /etc/kube/config: current-context is not set, and no context was chosen',
  ],
  [
    'a context that there is not',
    whole,
    'x',
    'the kubeconfig /etc/kube/config: asked for context "x", which is not among its contexts (site, anonymous, lost)',
  ],
  [
    'a cluster that there is not',
    whole,
    'lost',
    'the kubeconfig /etc/kube/config: context "lost" has cluster "nowhere", which is not among its clusters (other, site)',
  ],
  ['clusters of a wrong type', 'current-context: a\ncontexts: 5', '', '/etc/kube/config: contexts: expected a list'],
  [
    'an entry of a wrong type',
    'current-context: a\ncontexts: [5]',
    '',
    '/etc/kube/config: contexts[0]: expected a mapping with name',
  ],
  ['no server', site('insecure-skip-tls-verify: true'), '', '/etc/kube/config: clusters[1].cluster.server is missing'],
  [
    'a server of a wrong type',
    site('server: 5'),
    '',
    '/etc/kube/config: clusters[1].cluster.server: expected text (in quotes, if need be)',
  ],
  [
    'a server that is no URL',
    site('server: there'),
    '',
    '/etc/kube/config: clusters[1].cluster.server: expected https://HOST:PORT',
  ],
  [
    'a CA that is no base64',
    site('server: https://a\n    certificate-authority-data: "%%"'),
    '',
    '/etc/kube/config: clusters[1].cluster.certificate-authority-data: expected base64',
  ],
  [
    'a CA that is no PEM',
    site('server: https://a\n    certificate-authority-data: YWJj'),
    '',
    '/etc/kube/config: clusters[1].cluster.certificate-authority-data: expected PEM, in base64',
  ],
  [
    'a flag of a wrong type',
    site('server: https://a\n    insecure-skip-tls-verify: "yes"'),
    '',
    '/etc/kube/config: clusters[1].cluster.insecure-skip-tls-verify: expected true or false',
  ],
  [
    'half a key pair',
    admin('client-certificate: a.pem'),
    '',
    '/etc/kube/config: users[0].user: client-certificate and client-key go together, and only one is set',
  ],
  [
    'a token of a wrong type',
    admin('token: 12345'),
    '',
    '/etc/kube/config: users[0].user.token: expected text (in quotes, if need be)',
  ],
  [
    'a provider of old',
    admin('auth-provider: {name: gcp}'),
    '',
    "/etc/kube/config: users[0].user.auth-provider: was taken out of Kubernetes; use exec with the provider's plugin",
  ],
  [
    'a plugin without command',
    admin('exec: {apiVersion: client.authentication.k8s.io/v1}'),
    '',
    '/etc/kube/config: users[0].user.exec.command: is missing',
  ],
  [
    'a plugin of another API',
    admin('exec: {apiVersion: v1, command: a}'),
    '',
    '/etc/kube/config: users[0].user.exec.apiVersion: expected client.authentication.k8s.io/v1 or v1beta1',
  ],
] as const) {
  test(`an error names file and field: ${what}`, (t) => {
    t.is(message(text, context), expected);
  });
}

test('what stands in a file is not repeated in its errors', (t) => {
  for (const text of [
    `token: s3cret\n  a: "s3cret`,
    's3cret',
    '{s3cret',
    admin('token: [s3cret]'),
    's3cret: &a *s3cret',
  ]) {
    t.notThrows(() => message(text));
    t.false(message(text).includes('s3cret'), message(text));
  }
});

test('aliases that would fill the memory are refused', (t) => {
  const bomb = [
    'a0: &a0 [x, x]',
    ...Array.from({ length: 30 }, (_, i) => `a${i + 1}: &a${i + 1} [*a${i}, *a${i}]`),
  ].join('\n');
  t.is(message(bomb), '/etc/kube/config: is no kubeconfig: its aliases cannot be resolved');
});
