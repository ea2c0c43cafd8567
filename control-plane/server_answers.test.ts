import { once } from 'node:events';
import http2 from 'node:http2';
import { create, toBinary } from '@bufbuild/protobuf';
import { Code, createClient } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { BayService } from '../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService, ListContainersRequestSchema } from '../proto/gen/baykeeper/v1/container_service_pb.js';
import type { ApiFixture } from '../test/harness/api_fixture.ts';
import { refused } from '../test/harness/refused.ts';
import { fixture } from '../test/harness/server_bed.ts';
import { until } from '../test/harness/until.ts';
import type { AnswerLimits } from './api/answers.ts';

/* What is held of answers that nobody takes, over every way out of the server. */

const path = '/baykeeper.v1.ContainerService/ListContainers';
const asked = Buffer.from('{"bay":"local"}');
const askedOf = Buffer.from(
  toBinary(ListContainersRequestSchema, create(ListContainersRequestSchema, { bay: 'local' })),
);
const head = { 'content-type': 'application/json', 'x-auth-token': 'red-token' };
const framed = (message: Buffer): Buffer => Buffer.concat([Buffer.from([0, 0, 0, 0, message.length]), message]);

/** A bay whose list is 400 kB, of which a project may have a megabyte wait. */
async function bed(t: ExecutionContext, answers: AnswerLimits = {}) {
  const api = await fixture(t, { server: { answers: { projectBytes: 1_000_000, ...answers } } });
  const clients = (token: string) => ({
    bays: createClient(BayService, api.transport({ token })),
    containers: createClient(ContainerService, api.transport({ token })),
  });
  const red = clients('red-token');
  const args = Array.from({ length: 4 }, () => 'x'.repeat(100_000));
  await red.containers.createContainer({
    container: { metadata: { bay: 'local', name: 'large' }, spec: { image: 'i', args } },
  });
  return { api, red, blue: clients('blue-token') };
}

/** Asks for the list, and takes nothing of it. Resolves with what goes away. HTTP/1.1 is served as gRPC-Web is; the kernel takes too much there. */
const ways: Readonly<Record<string, (api: ApiFixture, t: ExecutionContext) => Promise<() => void>>> = {
  'Connect over HTTP/2': (api, t) => stalled(api, t, head, asked),
  gRPC: (api, t) => stalled(api, t, { ...head, 'content-type': 'application/grpc' }, framed(askedOf)),
  'gRPC-Web': (api, t) => stalled(api, t, { ...head, 'content-type': 'application/grpc-web+json' }, framed(asked)),
};

async function stalled(api: ApiFixture, t: ExecutionContext, headers: object, body: Buffer): Promise<() => void> {
  const session = http2.connect(api.server.url, { settings: { initialWindowSize: 0 } });
  t.teardown(() => session.destroy());
  session.on('error', () => undefined);
  const stream = session.request({ ':method': 'POST', ':path': path, ...headers });
  stream.on('error', () => undefined);
  stream.pause();
  stream.end(body);
  await Promise.race([once(stream, 'response'), once(stream, 'close')]);
  return () => session.destroy();
}

for (const [way, ask] of Object.entries(ways)) {
  test(`answers by ${way} that nobody takes are held up to a bound, and hold up no other project`, async (t) => {
    const { api, red, blue } = await bed(t);
    const list = () => red.containers.listContainers({ bay: 'local' });
    const leave = [await ask(api, t), await ask(api, t)];
    await until('it is too much', async () => (await list().catch((error: unknown) => error)) instanceof Error);
    await refused(t, list(), Code.ResourceExhausted, /too many answers wait to be taken/);
    // What is done is said to be done.
    const args = Array.from({ length: 4 }, () => 'y'.repeat(100_000));
    const other = { metadata: { bay: 'local', name: 'other' }, spec: { image: 'i', args } };
    t.is((await red.containers.createContainer({ container: other })).container?.metadata?.name, 'other');
    await red.containers.deleteContainer({ bay: 'local', name: 'other', force: true });
    t.deepEqual((await blue.bays.listBays({})).bays, []);
    for (const go of leave) go();
    await until('they are gone', async () => (await list().catch(() => undefined))?.containers.length === 1);
  });
}

test('an answer that nobody takes in time is taken back', async (t) => {
  const { api, red } = await bed(t, { timeoutMs: 100 });
  for (const ask of Object.values(ways)) await Promise.all([ask(api, t), ask(api, t)]);
  await until(
    'there is room',
    async () => await red.containers.listContainers({ bay: 'local' }).catch(() => undefined),
  );
  t.pass();
});
