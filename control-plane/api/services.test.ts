import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { Code } from '@connectrpc/connect';
import test from 'ava';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ExecuteRequestSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { DeliverySchema } from '../../proto/gen/baykeeper/v1/delivery_pb.js';
import { Kind, WhyOutcome } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { ApplyOutcome, type Manifest, ManifestSchema } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { refused } from '../../test/harness/refused.ts';
import { fixture, web } from '../../test/harness/services_bed.ts';
import { UnavailableError } from '../domain/errors.ts';

test('nodes are not created, and go only when nothing is on them or with force', async (t) => {
  const f = await fixture(t);
  await refused(
    t,
    f.nodes.createNode({ node: { metadata: { bay: 'edge-1', name: 'a' } } }),
    Code.Unimplemented,
    /join-command/,
  );
  const uid = await f.addNode('n1');
  await f.containers.createContainer({ container: web('keep') });
  await f.containers.createContainer({ container: web('drop') });
  const { container } = await f.containers.getContainer({ bay: 'edge-1', name: 'keep' });
  await f.api.report(container?.metadata?.uid ?? '', (status) => {
    status.phase = ContainerPhase.RUNNING;
    status.containerId = 'abc';
  });
  await f.containers.deleteContainer({ bay: 'edge-1', name: 'drop' });
  const ref = { bay: 'edge-1', name: 'n1' };
  await refused(t, f.nodes.deleteNode(ref), Code.FailedPrecondition, /2 objects on node "n1"/);
  t.is((await f.nodes.getNode(ref)).node?.metadata?.deleteTime, undefined);
  await refused(t, f.nodes.deleteNode({ ...ref, etag: 'old', force: true }), Code.Aborted);
  await f.nodes.deleteNode({ ...ref, force: true, validateOnly: true });
  f.api.placement.node = undefined;
  t.truthy((await f.nodes.deleteNode({ ...ref, force: true })).node);
  t.is(f.api.access.revoked.length, 1);
  await refused(t, f.nodes.getNode(ref), Code.NotFound);
  await refused(t, f.containers.getContainer({ bay: 'edge-1', name: 'drop' }), Code.NotFound);
  const kept = (await f.containers.getContainer({ bay: 'edge-1', name: 'keep' })).container;
  t.is(kept?.status?.phase, ContainerPhase.PENDING);
  t.is(kept?.status?.reason, 'Unschedulable');
  t.is(kept?.status?.containerId, '');
  t.is((await f.api.store.assigned(uid)).objects.length, 0);
  // The old node's chain ends with the two that it is to forget.
  const delta = await f.api.store.chainSince(uid, 0, 10);
  t.is(delta?.changes.filter(({ object, op }) => op === 'remove' || object.assigneeUid !== uid).length, 2);
  t.is((await f.nodes.deleteNode({ ...ref, allowMissing: true })).node, undefined);
});

test('a node whose key the broker cannot cut off now is deleted by the next try', async (t) => {
  const f = await fixture(t);
  await f.addNode('n1');
  const { revoke } = f.api.access;
  f.api.access.revoke = () => Promise.reject(new UnavailableError('the broker cannot be reached'));
  await refused(t, f.nodes.deleteNode({ bay: 'edge-1', name: 'n1' }), Code.Unavailable, /broker/);
  t.truthy((await f.nodes.getNode({ bay: 'edge-1', name: 'n1' })).node?.metadata?.deleteTime);
  f.api.access.revoke = revoke;
  await f.nodes.deleteNode({ bay: 'edge-1', name: 'n1' });
  t.is(f.api.access.revoked.length, 1);
});

test('an empty bay goes at once, another only with force', async (t) => {
  const f = await fixture(t);
  await f.tokens.createJoinToken({ bay: 'edge-1' });
  await f.bays.deleteBay({ name: 'edge-1' });
  await refused(t, f.bays.getBay({ name: 'edge-1' }), Code.NotFound);
  t.deepEqual((await f.tokens.listJoinTokens({})).joinTokens, []);
  const { bay } = await f.bays.createBay({ bay: { metadata: { name: 'edge-1' } } });
  t.not(bay?.metadata?.uid, f.bayUid);

  const { node } = await f.api.addNode(bay?.metadata?.uid ?? '', 'n1');
  await refused(t, f.bays.deleteBay({ name: 'edge-1' }), Code.FailedPrecondition, /1 node and 0 other objects/);
  f.api.placement.node = node;
  f.api.liveness.set(node.uid, true);
  await f.containers.createContainer({ container: web('on-node') });
  f.api.placement.node = undefined;
  await f.containers.createContainer({ container: web('nowhere') });
  await refused(t, f.bays.deleteBay({ name: 'edge-1' }), Code.FailedPrecondition, /1 node and 2 other objects/);
  const { bay: ending } = await f.bays.deleteBay({ name: 'edge-1', force: true });
  t.truthy(ending?.metadata?.deleteTime);
  await refused(t, f.containers.createContainer({ container: web('late') }), Code.FailedPrecondition, /being deleted/);
  await refused(t, f.containers.getContainer({ bay: 'edge-1', name: 'nowhere' }), Code.NotFound);
  const waiting = await f.containers.getContainer({ bay: 'edge-1', name: 'on-node' });
  t.truthy(waiting.container?.metadata?.deleteTime);
  // What is on a node that no longer answers is given up.
  f.api.liveness.set(node.uid, false);
  await f.bays.deleteBay({ name: 'edge-1', force: true });
  await refused(t, f.containers.getContainer({ bay: 'edge-1', name: 'on-node' }), Code.NotFound);
});

test('apply makes, changes and leaves alone, each for itself and in order', async (t) => {
  const f = await fixture(t);
  const manifest = (object: Manifest['object']) => create(ManifestSchema, { object });
  const of = (init: object) => create(ManifestSchema, { object: init as Manifest['object'] });
  const container = (value: object) => of({ case: 'container', value });
  const manifests = [
    container({ metadata: { bay: 'made', name: 'in-new-bay' }, spec: { image: 'x' } }),
    container(web('one')),
    container({ ...web('bad'), spec: { image: '' } }),
    container({ metadata: { bay: 'nowhere', name: 'a' }, spec: { image: 'x' } }),
    of({ case: 'pod', value: { metadata: { bay: 'edge-1', name: 'p' } } }),
    of({ case: 'bay', value: { metadata: { name: 'made' }, spec: { bayModel: 'small' } } }),
    of({ case: 'bayModel', value: { metadata: { name: 'small' } } }),
    manifest({ case: undefined }),
  ];
  const { results } = await f.manifests.apply({ manifests });
  const { CREATED, CONFIGURED, UNCHANGED, REFUSED } = ApplyOutcome;
  t.deepEqual(
    results.map(({ outcome }) => outcome),
    [CREATED, CREATED, REFUSED, REFUSED, REFUSED, CREATED, CREATED, REFUSED],
  );
  t.is(results[2]?.error?.code, Code.InvalidArgument);
  t.is(results[2]?.error?.field, 'container.spec.image');
  t.is(results[3]?.error?.code, Code.NotFound);
  t.is(results[4]?.error?.code, Code.Unimplemented);
  t.is(results[7]?.error?.code, Code.InvalidArgument);
  const shown = results[1]?.manifest?.object;
  t.is(shown?.case === 'container' ? shown.value.metadata?.generation : undefined, 1n);

  const again = await f.manifests.apply({
    manifests: [container(web('one')), container({ ...web('one'), spec: { image: 'y' } })],
  });
  t.deepEqual(new Set(again.results.map(({ outcome }) => outcome)), new Set([UNCHANGED, CONFIGURED]));
  const dry = await f.manifests.apply({
    manifests: [container(web('dry')), container(web('one'))],
    validateOnly: true,
  });
  t.deepEqual(
    dry.results.map(({ outcome }) => outcome),
    [CREATED, CONFIGURED],
  );
  await refused(t, f.containers.getContainer({ bay: 'edge-1', name: 'dry' }), Code.NotFound);
  await refused(t, f.manifests.apply({ manifests: [] }), Code.InvalidArgument, /manifests/);
});

test('a dry run of manifests takes those before as there, and writes nothing', async (t) => {
  const f = await fixture(t);
  const of = (init: object) => create(ManifestSchema, { object: init as Manifest['object'] });
  const manifests = [
    of({ case: 'container', value: { metadata: { bay: 'made', name: 'a' }, spec: { image: 'x' } } }),
    of({ case: 'pod', value: { metadata: { bay: 'made', name: 'p' } } }),
    of({ case: 'bay', value: { metadata: { name: 'made' }, spec: { bayModel: 'small' } } }),
    of({ case: 'bayModel', value: { metadata: { name: 'small' } } }),
    of({ case: 'bay', value: { metadata: { name: 'other' }, spec: { bayModel: 'none' } } }),
  ];
  const before = f.api.store.revision;
  const dry = await f.manifests.apply({ manifests, validateOnly: true });
  t.is(f.api.store.revision, before);
  const real = await f.manifests.apply({ manifests });
  const outcomes = ({ results }: typeof dry) => results.map(({ outcome, error }) => [outcome, error?.code]);
  t.deepEqual(outcomes(dry), outcomes(real));
  t.is(real.results[0]?.outcome, ApplyOutcome.CREATED);
  await f.addNode('n1');
  await f.containers.createContainer({ container: web('one') });
  await f.api.store.write({
    reads: [{ uid: f.bayUid }],
    apply: (view) => {
      const stored = view.get({ uid: f.bayUid });
      if (stored) view.put((revision) => ({ ...stored, revision, deleting: true }), '');
    },
  });
  const late = { container: web('late'), validateOnly: true };
  await refused(t, f.containers.createContainer(late), Code.FailedPrecondition, /being deleted/);
  await refused(
    t,
    f.containers.updateContainer({ ...late, allowMissing: true }),
    Code.FailedPrecondition,
    /being deleted/,
  );
});

test('why tells the chain from accepted to observed', async (t) => {
  const f = await fixture(t);
  const why = async (name = 'web') => f.explain.why({ kind: Kind.CONTAINER, bay: 'edge-1', name });
  const outcomes = ({ steps }: { steps: { outcome: WhyOutcome }[] }) => steps.map(({ outcome }) => WhyOutcome[outcome]);
  await f.containers.createContainer({ container: web('lost') });
  const unplaced = await why('lost');
  t.deepEqual(outcomes(unplaced), ['DONE', 'WAITING', 'WAITING', 'WAITING', 'WAITING']);
  t.regex(unplaced.summary, /Unschedulable/);

  const node = await f.addNode('n1');
  const { container } = await f.containers.createContainer({ container: web() });
  const uid = container?.metadata?.uid ?? '';
  t.deepEqual(outcomes(await why()), ['DONE', 'WAITING', 'WAITING', 'WAITING', 'WAITING']);
  f.api.bus.connected = false;
  t.regex((await why()).summary, /BrokerUnavailable/);
  f.api.bus.connected = true;

  const at = timestampFromMs(1_000_000_000_000);
  await f.api.report(uid, (status) => {
    status.phase = ContainerPhase.FAILED;
    status.reason = 'ImageNotFound';
    status.message = 'There is no image busybox.';
    status.delivery = create(DeliverySchema, { receivedGeneration: 1n, observedGeneration: 1n, receiveTime: at });
  });
  const failed = await why();
  t.deepEqual(outcomes(failed), ['DONE', 'DONE', 'DONE', 'REFUSED', 'DONE']);
  t.is(failed.steps[3]?.actor, 'docker/n1');
  t.regex(failed.summary, /refused by docker\/n1: ImageNotFound: There is no image busybox\.$/);

  await f.api.report(uid, (status) => {
    status.phase = ContainerPhase.RUNNING;
    status.reason = '';
    status.message = '';
    if (status.delivery) Object.assign(status.delivery, { appliedGeneration: 1n, applyTime: at, observeTime: at });
  });
  const fine = await why();
  t.deepEqual(outcomes(fine), ['DONE', 'DONE', 'DONE', 'DONE', 'DONE']);
  t.is(fine.summary, 'Container "web" in bay "edge-1" is as asked, and was last seen RUNNING.');
  t.deepEqual(fine.steps[4]?.time, at);
  f.api.liveness.set(node, false);
  const silent = await why();
  t.is(outcomes(silent)[4], 'UNKNOWN');
  t.regex(silent.summary, /NodeSilent/);
  f.api.liveness.set(node, true);
  await f.containers.deleteContainer({ bay: 'edge-1', name: 'web' });
  t.regex((await why()).summary, /is being deleted, and waits for its agent/);

  for (const [kind, name] of [
    [Kind.BAY, 'edge-1'],
    [Kind.BAY_MODEL, 'm'],
  ] as const) {
    if (kind === Kind.BAY_MODEL) await f.bayModels.createBayModel({ bayModel: { metadata: { name } } });
    t.is((await f.explain.why({ kind, name })).steps.length, 5);
  }
  t.is(
    (await f.explain.why({ kind: Kind.NODE, bay: 'edge-1', name: 'n1' })).summary,
    'Node "n1" in bay "edge-1" is ready.',
  );
  await refused(t, f.explain.why({ kind: Kind.POD, bay: 'edge-1', name: 'p' }), Code.Unimplemented);
  await refused(t, why('nothing'), Code.NotFound);
});

test('logs and commands go through to the node, or say why not', async (t) => {
  const seen: unknown[] = [];
  const f = await fixture(t, {
    streams: {
      async *logs(target, request) {
        seen.push(target.nodeName, request.stdout, request.stderr);
        yield { $typeName: 'baykeeper.v1.LogsResponse', output: { case: 'stdout', value: Buffer.from('hello\n') } };
      },
      async *execute(_target, start, input) {
        seen.push(start.command);
        for await (const message of input) {
          if (message.case === 'stdin')
            yield { $typeName: 'baykeeper.v1.ExecuteResponse', output: { case: 'stdout', value: message.value } };
        }
        yield { $typeName: 'baykeeper.v1.ExecuteResponse', output: { case: 'exitCode', value: 3 } };
      },
    },
  });
  const ref = { bay: 'edge-1', name: 'web' };
  const logs = async () => {
    const out: string[] = [];
    for await (const { output } of f.containers.logs(ref)) out.push(`${output.case}:${output.value}`);
    return out;
  };
  await refused(t, logs(), Code.NotFound);
  await f.containers.createContainer({ container: web() });
  await refused(t, logs(), Code.FailedPrecondition, /on no node yet/);
  await f.containers.deleteContainer(ref);
  const node = await f.addNode('n1');
  await f.containers.createContainer({ container: web() });
  t.is((await logs()).length, 1);
  async function* input() {
    yield create(ExecuteRequestSchema, { input: { case: 'start', value: { ...ref, command: ['cat'] } as never } });
    yield create(ExecuteRequestSchema, { input: { case: 'stdin', value: Buffer.from('abc') } });
    yield create(ExecuteRequestSchema, { input: { case: 'stdinEnd', value: true } });
  }
  const output = [];
  for await (const message of f.containers.execute(input())) output.push(message.output.case);
  t.deepEqual(output, ['stdout', 'exitCode']);
  t.deepEqual(seen, ['n1', true, true, ['cat']]);
  async function* wrong() {
    yield create(ExecuteRequestSchema, { input: { case: 'stdin', value: Buffer.from('abc') } });
  }
  const drain = async () => {
    for await (const _ of f.containers.execute(wrong())) t.fail();
  };
  await refused(t, drain(), Code.InvalidArgument, /start/);
  f.api.liveness.set(node, false);
  await refused(t, logs(), Code.Unavailable, /Node "n1" has lost its connection/);
});

test('the system says what it is and who is calling', async (t) => {
  const f = await fixture(t);
  const version = await f.system.getVersion({});
  t.is(version.version, '0.1.0-test');
  t.is(version.store, 'sqlite');
  t.true(version.brokerConnected);
  t.true(version.revision > 0n);
  const { subject, project, role } = await f.system.whoAmI({});
  t.deepEqual([subject, project, role], ['rose', 'red', 'member']);
});
