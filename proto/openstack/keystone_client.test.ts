import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { KeystoneError, type KeystoneFailure } from './errors.ts';
import { type KeystoneClient, openKeystoneClient } from './keystone_client.ts';

/** What a real Keystone does is tried in test/journeys; here is what it does not do when asked to. */

const domain = { id: 'default', name: 'Default' };
const body = {
  token: { user: { id: 'u1', name: 'alice', domain }, expires_at: '2026-11-22T18:20:47.253000', roles: [] },
};

async function clientOf(t: ExecutionContext, answer: RequestListener, timeoutMs = 2_000): Promise<KeystoneClient> {
  const server = createServer(answer);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const client = await openKeystoneClient({ authUrl: `http://127.0.0.1:${port}/v3`, tls: { verify: true }, timeoutMs });
  t.teardown(async () => {
    await client.close();
    server.closeAllConnections();
    server.close();
  });
  return client;
}

const says =
  (status: number, text: string, headers: Record<string, string> = {}): RequestListener =>
  (_request, response) =>
    void response.writeHead(status, headers).end(text);

async function fails(t: ExecutionContext, call: Promise<unknown>, failure: KeystoneFailure, message: RegExp) {
  const error = await t.throwsAsync<KeystoneError>(call, { instanceOf: KeystoneError, message });
  t.is(error?.failure, failure);
  t.notRegex(error?.message ?? '', /subject-secret|own-secret|pass-secret/);
}

const ask = (client: KeystoneClient) => client.validate({ token: 'own-secret', subject: 'subject-secret' });
const password = { kind: 'password', user: { id: 'u1' }, password: 'pass-secret' } as const;
const login = (client: KeystoneClient) => client.issue(password, { kind: 'unscoped' });

test('each way to fail is told from the others', async (t) => {
  for (const [status, text, failure, message] of [
    [500, '{"error":{}}', 'unavailable', /status 500/],
    [503, '<html>', 'unavailable', /status 503/],
    [429, '', 'unavailable', /status 429/],
    [401, '{"error":{}}', 'unauthorized', /does not know who asks/],
    [
      403,
      '{"error":{"message":"You are not authorized to perform the requested action: identity:validate_token."}}',
      'forbidden',
      /does not allow it/,
    ],
    [403, '<html>', 'invalid', /not JSON/],
    [302, '', 'invalid', /no Keystone v3 answers at http:\/\/127\.0\.0\.1:\d+\/v3: status 302/],
    [404, '<html>not here', 'invalid', /not JSON/],
    [404, '{}', 'invalid', /status 404/],
    [200, '{"token":', 'invalid', /not JSON/],
    [200, '[]', 'invalid', /the answer: expected an object/],
    [200, '{"token":{"user":{"id":7}}}', 'invalid', /token\.user\.id: expected a string/],
    [
      200,
      JSON.stringify({ token: { ...body.token, expires_at: 'soon' } }),
      'invalid',
      /token\.expires_at: expected a time/,
    ],
    [200, JSON.stringify({ token: { ...body.token, roles: {} } }), 'invalid', /token\.roles: expected a list/],
  ] as const) {
    await fails(t, ask(await clientOf(t, says(status, text))), failure, message);
  }
  t.is(await ask(await clientOf(t, says(404, '{"error":{"code":404}}'))), undefined);
  const forbidden = '{"error":{"message":"You are not authorized to perform the requested action."}}';
  t.is(await ask(await clientOf(t, says(403, forbidden))), undefined);
});

test('a time without a zone is UTC', async (t) => {
  const info = await ask(await clientOf(t, says(200, JSON.stringify(body))));
  t.is(info?.expireTimeMs, Date.UTC(2026, 10, 22, 18, 20, 47, 253));
});

test('an answer without an end, or without a bound, is cut off', async (t) => {
  await fails(t, ask(await clientOf(t, () => undefined, 100)), 'unavailable', /not within 0\.1 s/);
  const slow = await clientOf(t, (_request, response) => void response.writeHead(200).write('{'), 100);
  await fails(t, ask(slow), 'unavailable', /not within 0\.1 s/);
  let sent = 0;
  const endless = await clientOf(t, (_request, response) => {
    const chunk = Buffer.alloc(256 * 1024, ' ');
    const more = () => {
      sent += chunk.length;
      if (sent < 10 * 1024 * 1024 && !response.destroyed) response.write(chunk, more);
      else response.end();
    };
    response.writeHead(200);
    more();
  });
  await fails(t, ask(endless), 'unavailable', /more than \d+ bytes/);
  t.true(sent < 10 * 1024 * 1024);
});

test('nobody there, and somebody who does not speak HTTP, is said', async (t) => {
  const tls = { verify: true };
  await using nobody = disposable(await openKeystoneClient({ authUrl: 'http://127.0.0.1:1/v3', tls }));
  await fails(t, ask(nobody.client), 'unavailable', /does not answer at http:\/\/127\.0\.0\.1:1: ECONNREFUSED/);
  const other = createTcpServer((socket) => socket.end('SSH-2.0-hello\r\n'));
  other.listen(0, '127.0.0.1');
  await once(other, 'listening');
  t.teardown(() => void other.close());
  const { port } = other.address() as AddressInfo;
  await using strange = disposable(await openKeystoneClient({ authUrl: `http://127.0.0.1:${port}/v3`, tls }));
  await fails(t, ask(strange.client), 'unavailable', /does not answer/);
});

const disposable = (client: KeystoneClient) => ({ client, [Symbol.asyncDispose]: () => client.close() });

test('a login that is refused, wants more, or brings no token', async (t) => {
  await fails(
    t,
    login(await clientOf(t, says(401, '{"error":{}}'))),
    'unauthorized',
    /does not know these credentials/,
  );
  const receipt = says(401, '{"receipt":{}}', { 'openstack-auth-receipt': 'x' });
  await fails(t, login(await clientOf(t, receipt)), 'unauthorized', /more than one proof/);
  await fails(t, login(await clientOf(t, says(201, JSON.stringify(body)))), 'invalid', /without a token/);
  const good = await clientOf(t, says(201, JSON.stringify(body), { 'x-subject-token': 'abc' }));
  t.is((await login(good)).token, 'abc');
});
