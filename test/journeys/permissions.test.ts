import {
  type DescMethod,
  type DescMethodStreaming,
  type DescMethodUnary,
  fromJson,
  type JsonObject,
  type Message,
  toJsonString,
} from '@bufbuild/protobuf';
import { Code, ConnectError, type Transport } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { type Permission, permissions } from '../../control-plane/api/permissions.ts';
import {
  canary,
  type MatrixApi,
  type Ref,
  type Row,
  rows,
  startMatrixApi,
  Tenant,
  type Thing,
} from '../harness/call_matrix.ts';

/*
 * Every method × everybody who may call it, against the table, through the real server: the plain calls served directly, and those that connect-node
 * serves.
 */

interface Answer {
  readonly code: string;
  /** Everything that came back: messages as JSON, or the error's text. */
  readonly text: string;
}

const ways = {
  direct: { protocol: 'grpc' },
  web: { protocol: 'grpc-web', httpVersion: '1.1' },
} as const;

const callers = ['nobody', 'reader', 'member', 'admin'] as const;
const tokens: Readonly<Record<(typeof callers)[number], string>> = {
  nobody: '',
  reader: 'red-reader-token',
  member: 'red-token',
  admin: 'admin-token',
};
const rank = (who: Permission | 'nobody'): number =>
  ['nobody', 'reader', 'member', 'admin'].indexOf(who === 'open' ? 'nobody' : who);

/** Methods that refuse everybody who may call them, in words of their own. */
const answers: Readonly<Record<string, string>> = {
  CreateNode: 'Unimplemented',
  Enroll: 'PermissionDenied',
  RenewCredentials: 'PermissionDenied',
  UnpauseContainer: 'FailedPrecondition',
};

async function call(transport: Transport, method: DescMethod, request: JsonObject): Promise<Answer> {
  const message = fromJson(method.input, request);
  const seen: string[] = [];
  const see = (answer: Message): string => seen[seen.push(toJsonString(method.output, answer)) - 1] ?? '';
  const abort = new AbortController();
  try {
    if (method.methodKind === 'unary') {
      see((await transport.unary(method as DescMethodUnary, undefined, 10_000, undefined, message)).message);
    } else {
      const inputs = async function* () {
        yield message;
      };
      const response = await transport.stream(method as DescMethodStreaming, abort.signal, 10_000, undefined, inputs());
      for await (const answer of response.message) {
        // Of a watch all of its snapshot, of others the first.
        const text = see(answer);
        if (!/^Watch.+/.test(method.name) || text.includes('SYNCED')) break;
      }
    }
    return { code: 'OK', text: seen.join('\n') };
  } catch (cause) {
    const error = ConnectError.from(cause);
    return { code: Code[error.code] ?? '', text: error.rawMessage };
  } finally {
    abort.abort();
  }
}

const methods = permissions.flatMap(({ service, methods: table }) =>
  service.methods.map((method) => ({
    method,
    key: `${service.name}/${method.name}`,
    needed: table.get(method.name) ?? 'admin',
  })),
);

function rowOf(key: string): Row {
  const row = rows[key];
  if (!row) throw new Error(`the matrix has no row for ${key}`);
  return row;
}

/** A request of this row that names what a tenant has; with `fresh`, an object of its own where the call would end it. */
async function requestOf(row: Row, tenant: Tenant, fresh = false): Promise<JsonObject> {
  if (row.of === 'nothing') return typeof row.request === 'function' ? row.request() : row.request;
  if (row.of === 'inside') return row.request(tenant[row.bay]);
  return row.request(byName(await (fresh && row.ends ? tenant.make[row.of]() : tenant.one(row.of))));
}

const byName = ({ bay, name, uid }: Required<Ref>): Ref => (name ? { bay, name } : { bay, uid });

const open = async (t: ExecutionContext): Promise<{ api: MatrixApi; red: Tenant }> => {
  const api = await startMatrixApi();
  t.teardown(() => api[Symbol.asyncDispose]());
  return { api, red: await Tenant.create(api, 'red-token', 'alpha', 'kappa') };
};

test('every method has its row, and no row is of anything else', (t) => {
  t.deepEqual(Object.keys(rows).sort(), methods.map(({ key }) => key).sort());
});

test('what everybody may is what the table says', async (t) => {
  const { api, red } = await open(t);
  const cells = Object.entries(ways).flatMap(([way, how]) =>
    callers.map((caller) => ({
      caller,
      way,
      transport: api.transport({ ...how, token: tokens[caller], project: caller === 'admin' ? 'red' : '' }),
    })),
  );
  for (const { method, key, needed } of methods) {
    await Promise.all(
      cells.map(async ({ caller, way, transport }) => {
        if (way === 'web' && method.methodKind === 'bidi_streaming') return;
        const may = rank(caller) >= rank(needed);
        const { code, text } = await call(transport, method, await requestOf(rowOf(key), red, may));
        const refusal = caller === 'nobody' ? 'Unauthenticated' : 'PermissionDenied';
        t.is(code, may ? (answers[method.name] ?? 'OK') : refusal, `${caller} calls ${key} by ${way}: ${text}`);
        if (!may) t.false(text.includes(canary), `${caller} calls ${key} by ${way}`);
      }),
    );
  }
});

const unknownUid = '019f0000-0000-7000-8000-000000000000';
const unknownId = '0123456789abcdef';
const names = /\b(?:alpha|kappa|(?:model|bay|node|pod|service|controller|container)-\d+)\b/g;
const uids = /\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b/g;
const ids = /\b[0-9a-f]{16}\b/g;
/** An answer without the names that were asked for. */
const blank = ({ text }: Answer): string =>
  text
    .replaceAll(names, 'X')
    .replaceAll(/\bnowhere\b/g, 'X')
    .replaceAll(uids, 'X')
    .replaceAll(ids, 'X');

test('to the member of another project it is as if nothing of it were there', async (t) => {
  const { api, red } = await open(t);
  await Tenant.create(api, 'blue-token', 'delta', 'sigma');
  const inProject = methods.filter(({ needed }) => needed === 'reader' || needed === 'member');
  const transports = Object.entries(ways).map(([way, how]) => ({
    way,
    transport: api.transport({ ...how, token: 'blue-token' }),
  }));
  const each = (check: (cell: (typeof methods)[number] & (typeof transports)[number]) => Promise<void>) =>
    Promise.all(
      inProject.flatMap((method) =>
        transports
          .filter(({ way }) => way !== 'web' || method.method.methodKind !== 'bidi_streaming')
          .map((transport) => check({ ...method, ...transport })),
      ),
    );

  await each(async ({ way, transport, method, key }) => {
    const row = rowOf(key);
    if (row.of !== 'nothing') return;
    const { code, text } = await call(transport, method, await requestOf(row, red));
    t.is(code, 'OK', `${key} by ${way}: ${text}`);
    t.false(text.includes(canary) || text.includes('"red"'), `${key} by ${way}: ${text}`);
  });

  const { revision } = api.store;
  await each(async ({ way, transport, method, key }) => {
    const row = rowOf(key);
    if (row.of === 'nothing') return;
    const requests: JsonObject[] = [await requestOf(row, red)];
    if (row.of !== 'inside' && row.of !== 'joinToken') {
      // By its uid, and in a bay that is the caller's own.
      const { bay, uid } = await red.one(row.of);
      requests.push(row.request({ bay: bay && 'sigma', uid }));
    }
    for (const request of requests) {
      const text = JSON.stringify(request);
      const where = `${key} by ${way} ${text}`;
      const found = await call(transport, method, request);
      if (key === 'ManifestService/Apply') t.regex(found.text, /there is no bay/);
      else t.is(found.code, method.name === 'CreateNode' ? 'Unimplemented' : 'NotFound', `${where}: ${found.text}`);
      t.false(found.text.includes(canary), where);
      // What is not there at all is answered in the same words.
      const elsewhere = text.replaceAll(names, 'nowhere').replaceAll(uids, unknownUid).replaceAll(ids, unknownId);
      t.not(elsewhere, text);
      t.is(blank(found), blank(await call(transport, method, JSON.parse(elsewhere))), where);
    }
  });
  t.is(api.store.revision, revision, 'something has changed');
});

/** What the kinds are made as, by their lists and watches. */
const things: Readonly<Record<string, Thing>> = {
  BayModels: 'bayModel',
  Bays: 'bay',
  Nodes: 'node',
  Pods: 'pod',
  Services: 'service',
  ReplicationControllers: 'controller',
  Containers: 'container',
  JoinTokens: 'joinToken',
};

test('each list and watch has what is in the own project, all of it and nothing else, also as it happens', async (t) => {
  const { api, red } = await open(t);
  // Bays of the same names, so that nothing but the project tells them apart.
  const blue = await Tenant.create(api, 'blue-token', 'alpha', 'kappa');
  const transport = api.transport({ protocol: 'grpc', token: 'blue-token' });
  const everywhere = api.transport({ protocol: 'grpc', token: 'admin-token', project: '-' });
  const seen = new Set<string>();
  for (const { method, key } of methods) {
    const [, verb, many = ''] = /^(List|Watch)(\w+)$/.exec(method.name) ?? [];
    const thing = things[many];
    if (!thing) continue;
    seen.add(key);
    const request = await requestOf(rowOf(key), blue);
    const [ours, theirs] = await Promise.all([blue.one(thing), red.one(thing)]);
    const has = (text: string, uid: string) => text.includes(`"${uid}"`);
    const { code, text } = await call(transport, method, request);
    t.deepEqual(
      [code, has(text, ours.uid), has(text, theirs.uid), text.includes(canary)],
      ['OK', true, false, false],
      key,
    );
    const all = await call(everywhere, method, {});
    t.deepEqual([has(all.text, ours.uid), has(all.text, theirs.uid)], [true, true], `${key} of every project`);
    if (verb !== 'Watch') continue;

    const abort = new AbortController();
    const inputs = (async function* () {
      yield fromJson(method.input, request);
    })();
    const stream = method as DescMethodStreaming;
    const { message } = await transport.stream(stream, abort.signal, 10_000, undefined, inputs);
    const events = message[Symbol.asyncIterator]();
    const next = async (): Promise<string> => toJsonString(method.output, (await events.next()).value as Message);
    while (!(await next()).includes('SYNCED'));
    await red.make[thing]();
    const { uid } = await blue.make[thing]();
    const event = await next();
    t.true(has(event, uid) && event.includes('ADDED'), `${key}: ${event}`);
    abort.abort();
  }
  t.is(seen.size, 15);
});
