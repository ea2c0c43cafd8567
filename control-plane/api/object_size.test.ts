import { Code, ConnectError, createClient } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { ApplyOutcome, ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { startApi } from '../../test/harness/api_fixture.ts';
import { maxObjectBytes } from '../domain/object_size.ts';

async function tooLarge(t: ExecutionContext, call: Promise<unknown>): Promise<void> {
  const error = ConnectError.from(await t.throwsAsync(call));
  t.is(Code[error.code], 'InvalidArgument', error.message);
  t.regex(error.rawMessage, /^(container|bay): is \d+ bytes large.* 524288/);
}

test('an object that would not fit into a message to its node is refused, however it is written', async (t) => {
  await using api = await startApi();
  const transport = api.transport();
  const bays = createClient(BayService, transport);
  const containers = createClient(ContainerService, transport);
  await bays.createBay({ bay: { metadata: { name: 'local' } } });
  const env = (bytes: number) =>
    Array.from({ length: 8 }, (_, i) => ({ name: `E${i}`, value: 'x'.repeat(Math.floor(bytes / 8)) }));
  const web = (bytes: number, name = 'web') => ({
    metadata: { bay: 'local', name },
    spec: { image: 'busybox', env: env(bytes) },
  });
  const large = maxObjectBytes + 1;
  const before = api.store.revision;
  await tooLarge(t, containers.createContainer({ container: web(large) }));
  await tooLarge(t, containers.createContainer({ container: web(large), validateOnly: true }));
  await tooLarge(t, containers.updateContainer({ container: web(large), allowMissing: true }));
  await tooLarge(t, containers.updateContainer({ container: web(large), allowMissing: true, validateOnly: true }));
  const annotations = Object.fromEntries(Array.from({ length: 10 }, (_, i) => [`a${i}`, 'x'.repeat(65_000)]));
  await tooLarge(t, bays.createBay({ bay: { metadata: { name: 'other', annotations } } }));
  const { results } = await createClient(ManifestService, transport).apply({
    manifests: [{ object: { case: 'container', value: web(large) } }],
  });
  t.is(results[0]?.outcome, ApplyOutcome.REFUSED);
  t.is(results[0]?.error?.code, Code.InvalidArgument);
  t.is(results[0]?.error?.field, 'container');
  t.is(api.store.revision, before);

  const { container } = await containers.createContainer({ container: web(maxObjectBytes - 1000) });
  await tooLarge(t, containers.updateContainer({ container: web(large) }));
  await tooLarge(t, containers.updateContainer({ container: web(large), validateOnly: true }));
  // In parts, too.
  const labels = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`label-${i}`, 'y'.repeat(60)]));
  await tooLarge(
    t,
    containers.updateContainer({
      container: { metadata: { bay: 'local', name: 'web', labels } },
      updateMask: { paths: ['metadata.labels'] },
    }),
  );
  // What an agent says of it does not count, and does not stand in the way of changes.
  await api.report(container?.metadata?.uid ?? '', (status) => {
    status.message = 'm'.repeat(4000);
  });
  await containers.stopContainer({ bay: 'local', name: 'web' });
  t.truthy((await containers.deleteContainer({ bay: 'local', name: 'web' })).container);
});
