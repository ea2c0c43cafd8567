import { Code, ConnectError, createClient } from '@connectrpc/connect';
import test from 'ava';
import { BayService } from '../../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../../proto/gen/baykeeper/v1/container_service_pb.js';
import { NodeService } from '../../../proto/gen/baykeeper/v1/node_service_pb.js';
import { type ApiFixture, startApi } from '../../../test/harness/api_fixture.ts';
import { until } from '../../../test/harness/until.ts';
import { nobody } from '../../audit/port.ts';
import { PreconditionError, UnavailableError } from '../../domain/errors.ts';

/** What is recorded by now, oldest first: what came of which call, about what. */
async function recorded({ audit }: ApiFixture): Promise<string[]> {
  // What is refused is recorded beside the answer: a record that is waited for comes after it.
  await audit.append({ ...nobody, kind: 'system', method: '', code: 'marker' });
  const records: string[] = [];
  for await (const { kind, code, method, objects, message } of audit.read(undefined)) {
    const [object] = objects;
    const about = object ? `${object.name}${object.revision > 0 ? `@${object.revision}` : ''}` : '-';
    const said = message === '' ? '' : `: ${message}`;
    if (code !== 'marker') records.push(`${kind} ${code} ${method.split('/')[1]} ${about}${said}`);
  }
  return records.reverse();
}

const codeOf = async (call: Promise<unknown>): Promise<string | undefined> => {
  try {
    await call;
    return undefined;
  } catch (error) {
    return Code[ConnectError.from(error).code];
  }
};

test('a change that its caller does not wait for is recorded as what became of it', async (t) => {
  const { promise: mayWrite, resolve: write } = Promise.withResolvers<void>();
  await using api = await startApi({
    api: { unaryTimeoutMs: 20 },
    seenStore: (store) =>
      new Proxy(store, {
        get: (target, name) => {
          if (name === 'write') return (wanted: never) => mayWrite.then(() => target.write(wanted));
          const value = Reflect.get(target, name);
          return typeof value === 'function' ? value.bind(target) : value;
        },
      }),
  });
  const bays = createClient(BayService, api.transport());
  // More than are recorded each where they are refused.
  const names = Array.from({ length: 40 }, (_, i) => `bay-${i}`);
  const codes = await Promise.all(names.map((name) => codeOf(bays.createBay({ bay: { metadata: { name } } }))));
  t.deepEqual(new Set(codes), new Set(['DeadlineExceeded']));
  write();
  await until('all of them are made', () => api.store.revision === names.length);
  await until('all of them are recorded', () => api.audit.head.sequence >= names.length);
  const records = await recorded(api);
  t.deepEqual(
    records.toSorted(),
    names.map((name, i) => `change ok CreateBay ${name}@${i + 1}`).toSorted(),
    'none is taken for a refusal, or counted only',
  );
});

test('a call that may be half done is named in its record, whatever else its caller was refused', async (t) => {
  await using api = await startApi();
  const { bay } = await createClient(BayService, api.transport()).createBay({ bay: { metadata: { name: 'edge' } } });
  await api.addNode(bay?.metadata?.uid ?? '', 'n1');
  const nodes = createClient(NodeService, api.transport());
  for (let i = 0; i < 40; i += 1) await codeOf(nodes.revokeNode({ bay: 'edge', name: 'nope' }));
  api.access.revoke = async () => {
    throw new UnavailableError('the broker is away');
  };
  t.is(await codeOf(nodes.revokeNode({ bay: 'edge', name: 'n1' })), 'Unavailable');
  t.is((await recorded(api)).at(-1), 'refused unavailable RevokeNode n1');
});

test('a command is recorded as begun when it is about to be, with its end, and as refused when it was not to be', async (t) => {
  let says: Error | undefined;
  let breaks = false;
  await using api = await startApi({
    streams: {
      async *execute() {
        if (says) throw says;
        yield { output: { case: 'stdout', value: new Uint8Array(1) } } as never;
        if (breaks) throw new UnavailableError('the agent has gone');
        yield { output: { case: 'exitCode', value: 3 } } as never;
      },
    },
  });
  const { bay } = await createClient(BayService, api.transport()).createBay({ bay: { metadata: { name: 'edge' } } });
  const { node } = await api.addNode(bay?.metadata?.uid ?? '', 'n1');
  api.placement.node = node;
  api.liveness.set(node.uid, true);
  const containers = createClient(ContainerService, api.transport());
  const { container } = await containers.createContainer({
    container: { metadata: { bay: 'edge', name: 'web' }, spec: { image: 'b' } },
  });
  const execute = async (value: { name?: string; uid?: string; command?: string[] }): Promise<string | undefined> => {
    const input = async function* () {
      yield { input: { case: 'start' as const, value: { bay: 'edge', command: ['ls'], ...value } } };
    };
    const toItsEnd = async () => {
      for await (const _ of containers.execute(input()));
    };
    return await codeOf(toItsEnd());
  };
  const before = (await recorded(api)).length;
  t.is(await execute({ name: 'nope' }), 'NotFound');
  t.is(await execute({ name: 'web', command: [] }), 'InvalidArgument');
  t.is(await execute({ uid: container?.metadata?.uid ?? '' }), undefined);
  breaks = true;
  t.is(await execute({ name: 'web' }), 'Unavailable');
  says = new PreconditionError('forbidden by the policy of the node');
  t.is(await execute({ name: 'web' }), 'FailedPrecondition');
  t.deepEqual((await recorded(api)).slice(before), [
    'refused not_found Execute nope',
    'refused invalid_argument Execute web',
    'change begun Execute web',
    'system command_ended Execute web: exit code 3',
    'change begun Execute web',
    'system command_ended Execute web: unavailable',
    'change begun Execute web',
    'refused failed_precondition Execute web',
  ]);
});

test('it is recorded which deletions were with force', async (t) => {
  await using api = await startApi();
  const bays = createClient(BayService, api.transport());
  for (const name of ['gently', 'forced']) {
    await bays.createBay({ bay: { metadata: { name } } });
    await bays.deleteBay({ name, force: name === 'forced' });
  }
  const messages: string[] = [];
  for await (const { method, message } of api.audit.read(undefined)) if (/Delete/.test(method)) messages.push(message);
  t.deepEqual(messages, ['with force', '']);
});
