import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { failure, json, scriptedKubernetesApi } from '../../../test/harness/scripted_kubernetes_api.ts';
import { temporaryFolder } from '../../../test/harness/temporary_folder.ts';
import { ClusterError } from '../cluster_error.ts';
import { Connector } from './connection.ts';
import { AccessFinder, type FindAccessOptions } from './find_access.ts';
import { ApiClient } from './http.ts';

/** An API server that takes one token, and a kubeconfig with which to reach it. */
async function fixture(t: ExecutionContext) {
  const folder = await temporaryFolder('access');
  const takes = { token: 'first' };
  const api = await scriptedKubernetesApi(({ headers }, response) => {
    if (headers.authorization === `Bearer ${takes.token}`) json(response, 200, {});
    else failure(response, 401, 'Unauthorized', 'Unauthorized');
  });
  const time = { nowMs: 1_000_000 };
  const made: Connector[] = [];
  t.teardown(async () => {
    for (const one of made) one.close();
    await api[Symbol.asyncDispose]();
    await folder[Symbol.asyncDispose]();
  });
  const path = (name: string) => join(folder.path, name);
  const configure = (user: object, cluster: object = {}) =>
    writeFile(
      path('config'),
      JSON.stringify({
        'current-context': 'c',
        contexts: [{ name: 'c', context: { cluster: 'c', user: 'u' } }],
        clusters: [{ name: 'c', cluster: { server: api.url, ...cluster } }],
        users: [{ name: 'u', user }],
      }),
    );
  const connect = (options: Partial<FindAccessOptions> = {}, pluginTimeoutMs?: number) => {
    const finder = new AccessFinder({ kubeconfig: path('config'), context: '', env: {}, ...options });
    const connector = new Connector({ find: () => finder.find(), nowMs: () => time.nowMs, pluginTimeoutMs });
    made.push(connector);
    const client = new ApiClient({ connector });
    return { connector, request: () => client.request({ method: 'GET', path: '/' }) };
  };
  /** A credential plugin that says what is in the file `says`, and keeps a count of its runs in `runs`. */
  const plugin = async (script: string) => {
    await writeFile(path('plugin'), `#!/bin/sh\necho run >> ${path('runs')}\n${script}\n`);
    await chmod(path('plugin'), 0o755);
  };
  return { api, takes, time, path, configure, connect, plugin };
}

const apiVersion = 'client.authentication.k8s.io/v1';
const credential = (status: object) => JSON.stringify({ apiVersion, kind: 'ExecCredential', status });

async function refusal(t: ExecutionContext, request: () => Promise<unknown>): Promise<string> {
  const error = await t.throwsAsync(request, { instanceOf: ClusterError });
  t.is(error?.kind, 'unauthorized');
  return error?.message ?? '';
}

test('a token in a file is read again when the cluster refuses the old one', async (t) => {
  const { takes, time, path, configure, connect, api } = await fixture(t);
  await configure({ tokenFile: 'token' });
  await writeFile(path('token'), 'first\n');
  const { request } = connect();
  await request();
  await writeFile(path('token'), 'second\n');
  takes.token = 'second';
  await request();
  t.is(api.calls.length, 3);
  // Nothing else to try: refused once, and not again and again.
  takes.token = 'third';
  time.nowMs += 2_000;
  t.is(await refusal(t, request), 'Unauthorized');
  t.is(api.calls.length, 4);
});

test('a token in a file is read again after a while without being refused', async (t) => {
  const { takes, time, path, configure, connect, api } = await fixture(t);
  await configure({ tokenFile: 'token' });
  await writeFile(path('token'), 'first');
  const { request } = connect();
  await request();
  await writeFile(path('token'), 'second');
  takes.token = 'second';
  time.nowMs += 31_000;
  await request();
  t.is(api.calls.length, 2);
});

test('many that are refused at once cause one look at the credentials', async (t) => {
  const { takes, path, configure, connect, plugin } = await fixture(t);
  await configure({ exec: { apiVersion, command: path('plugin') } });
  await plugin(`cat ${path('says')}`);
  await writeFile(path('says'), credential({ token: 'first' }));
  const { request } = connect();
  await request();
  await writeFile(path('says'), credential({ token: 'second' }));
  takes.token = 'second';
  await Promise.all(Array.from({ length: 20 }, request));
  t.is(await runs(path('runs')), 2);
});

test("a plugin is run again shortly before what it gave ends, and gets the agent's environment", async (t) => {
  const { api, takes, time, path, configure, connect, plugin } = await fixture(t);
  await configure({
    exec: { apiVersion, command: path('plugin'), env: [{ name: 'GIVEN', value: 'x' }], provideClusterInfo: true },
  });
  await plugin(`echo "$GIVEN $KUBERNETES_EXEC_INFO" > ${path('info')}; cat ${path('says')}`);
  const endsMs = time.nowMs + 120_000;
  await writeFile(path('says'), credential({ token: 'first', expirationTimestamp: new Date(endsMs).toISOString() }));
  const { request } = connect();
  await request();
  time.nowMs = endsMs - 11_000;
  await request();
  t.is(await runs(path('runs')), 1);
  await writeFile(path('says'), credential({ token: 'second' }));
  takes.token = 'second';
  time.nowMs = endsMs - 9_000;
  await request();
  t.is(await runs(path('runs')), 2);
  const [given, info] = (await text(path('info'))).split(/ (.*)/s);
  t.is(given, 'x');
  t.like(JSON.parse(info ?? ''), {
    kind: 'ExecCredential',
    apiVersion,
    spec: { interactive: false, cluster: { server: api.url } },
  });
});

for (const [what, script, expected] of [
  ['that fails', 'echo please log in >&2; exit 3', /the credential plugin .* ended with 3: please log in$/],
  ['that hangs', 'sleep 100', /the credential plugin .* did not end within 0.3 s$/],
  ['that leaves a child with its output', 'sleep 100 &', /the credential plugin .* did not end within 0.3 s$/],
  ['that says nonsense', 'echo s3cret', /the credential plugin .* printed something that is no JSON$/],
  [
    'that never ends to talk',
    'yes s3cret',
    /the credential plugin .* printed more than a megabyte$|did not end within 0.3 s$/,
  ],
  ['of another version', `printf %s '{"kind":"ExecCredential","apiVersion":"v0"}'`, /apiVersion: expected client/],
  ['without credentials', `printf %s '${credential({})}'`, /status: has neither token nor clientCertificateData$/],
  [
    'with half a key pair',
    `printf %s '${credential({ clientKeyData: 's3cret' })}'`,
    /go together, and only one is set$/,
  ],
  ['with a token of a wrong type', `printf %s '${credential({ token: 5 })}'`, /status.token: expected text$/],
  [
    'with a token in two lines',
    `printf %s '${credential({ token: 'a\nb' })}' `,
    /expected one line of visible characters$/,
  ],
] as const) {
  test(`a plugin ${what} is an error that says so`, async (t) => {
    const { path, configure, connect, plugin } = await fixture(t);
    await configure({ exec: { apiVersion, command: path('plugin') } });
    await plugin(script);
    // Only who is to come too late has little time.
    const said = await refusal(t, connect({}, expected.source.includes('0.3 s') ? 300 : 20_000).request);
    t.regex(said, expected);
    t.false(said.includes('s3cret'), said);
  });
}

test('a plugin that there is not is an error that says so, with the hint', async (t) => {
  const { configure, connect } = await fixture(t);
  await configure({ exec: { apiVersion, command: 'no-such-plugin', installHint: 'get it at the shop' } });
  t.is(
    await refusal(t, connect().request),
    'the credential plugin no-such-plugin could not be run: there is no such program; get it at the shop',
  );
});

test('a kubeconfig is read again when it changes; one that is broken meanwhile leaves things as they were', async (t) => {
  const { api, takes, time, path, configure, connect } = await fixture(t);
  await configure({ token: 'first' });
  const { request } = connect();
  await request();
  await writeFile(path('config'), 'garbage: [');
  time.nowMs += 31_000;
  await request();
  takes.token = 'second';
  await configure({ token: 'second' });
  time.nowMs += 31_000;
  await request();
  t.is(api.calls.length, 3);
});

test('the service account of a pod comes first, then KUBECONFIG, then the home folder', async (t) => {
  const { api, path, configure, connect, takes } = await fixture(t);
  const { hostname, port } = new URL(api.url);
  await mkdir(path('account'));
  await writeFile(path('account/token'), 'of-the-pod');
  await writeFile(path('account/ca.crt'), '-----BEGIN CERTIFICATE-----\n');
  await configure({ token: 'listed' });
  await mkdir(path('.kube'));
  await writeFile(path('.kube/config'), (await text(path('config'))).replace('listed', 'home'));
  const inPod = { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port };
  const listed = { KUBECONFIG: `${path('missing')}:${path('config')}` };
  const home = { HOME: path('') };
  const find = async (env: Record<string, string>, context = '') =>
    await new AccessFinder({ kubeconfig: '', context, env, serviceAccountDir: path('account') }).find();
  t.like(await find({ ...inPod, ...listed, ...home }), {
    server: `https://${hostname}:${port}`,
    ca: { file: path('account/ca.crt') },
    user: { token: { file: path('account/token') } },
  });
  t.like(await find({ ...listed, ...home }), { user: { token: { text: 'listed' } } });
  t.like(await find(home), { user: { token: { text: 'home' } } });
  // Whoever names a context means a kubeconfig.
  t.like(await find({ ...inPod, ...home }, 'c'), { user: { token: { text: 'home' } } });
  takes.token = 'home';
  await connect({ kubeconfig: '', env: home }).request();
  const none = await refusal(t, () => find({ HOME: path('nowhere') }));
  t.regex(none, /^no way into the cluster is known: .* say --kubeconfig FILE$/);
});

for (const [what, user, cluster, expected] of [
  [
    'a token file',
    { tokenFile: 'none' },
    {},
    /^the token of the kubeconfig .*: cannot read .*none: there is no such file$/,
  ],
  ['a token file that is a folder', { tokenFile: '.' }, {}, /^the token of .*: it is a folder$/],
  ['an empty token file', { tokenFile: 'empty' }, {}, /^the token of .*empty is empty$/],
  [
    'a certificate file',
    { 'client-certificate': 'none', 'client-key': 'none' },
    { server: 'https://127.0.0.1:1' },
    /^the client certificate of .*: cannot read .*none: there is no such file$/,
  ],
  [
    'a CA that is none',
    {},
    { server: 'https://127.0.0.1:1', 'certificate-authority': 'empty' },
    /^the CA of .*empty: expected PEM$/,
  ],
  [
    'a CA that is garbage',
    {},
    { server: 'https://127.0.0.1:1', 'certificate-authority': 'garbage' },
    /^the CA of the kubeconfig .*config: .*garbage: expected a certificate$/,
  ],
] as const) {
  test(`what is wrong with a file is said: ${what}`, async (t) => {
    const { path, configure, connect } = await fixture(t);
    await writeFile(path('empty'), '');
    await writeFile(path('garbage'), '-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n');
    await configure(user, cluster);
    t.regex(await refusal(t, connect().request), expected);
  });
}

test('a kubeconfig that is missing, or no text, is an error that names it', async (t) => {
  const { path, connect } = await fixture(t);
  t.is(await refusal(t, connect().request), `cannot read the kubeconfig ${path('config')}: there is no such file`);
  await writeFile(path('config'), Uint8Array.of(0xff, 0xfe, 0, 0xff));
  t.is(await refusal(t, connect().request), `${path('config')}: is no kubeconfig: it is not UTF-8`);
});

test('a user acts as another, and with a password', async (t) => {
  const { api, configure, connect } = await fixture(t);
  await configure({ username: 'a', password: 'b', as: 'c', 'as-groups': ['d', 'e'] });
  await refusal(t, connect().request);
  t.like(api.calls[0]?.headers, {
    authorization: `Basic ${Buffer.from('a:b').toString('base64')}`,
    'impersonate-user': 'c',
    'impersonate-group': 'd, e',
  });
});

async function text(path: string): Promise<string> {
  const { readFile } = await import('node:fs/promises');
  return await readFile(path, 'utf8');
}

const runs = async (path: string): Promise<number> => (await text(path)).trim().split('\n').length;
