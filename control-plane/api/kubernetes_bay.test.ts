import { Code, ConnectError, createClient } from '@connectrpc/connect';
import test, { type ExecutionContext } from 'ava';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerEngine } from '../../proto/gen/baykeeper/v1/container_engine_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { ExplainService, Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { ApplyOutcome, ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { NodePhase } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { PodPhase } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { PodService } from '../../proto/gen/baykeeper/v1/pod_service_pb.js';
import { ServiceService } from '../../proto/gen/baykeeper/v1/service_service_pb.js';
import { type ApiFixtureOptions, startApi } from '../../test/harness/api_fixture.ts';
import { refused } from '../../test/harness/refused.ts';
import { decode, encode } from '../domain/record.ts';
import type { Verdict } from '../reconcile/port.ts';

/** A Kubernetes bay, `kube`, whose cluster says to a check what `verdict` is at that moment. */
async function fixture(t: ExecutionContext, options: ApiFixtureOptions = {}) {
  const cluster: { verdict: Verdict; asked: string[] } = { verdict: {}, asked: [] };
  const api = await startApi({
    ...options,
    api: {
      checks: {
        async check(_target, kind, object) {
          cluster.asked.push(`${kind} ${object.metadata?.name}`);
          return cluster.verdict;
        },
      },
      // What the inventory does for such a bay.
      placement: { choose: (bayUid) => ({ uid: bayUid, name: '' }) },
    },
  });
  t.teardown(() => api[Symbol.asyncDispose]());
  const transport = api.transport();
  const bays = createClient(BayService, transport);
  const spec = { containerEngine: ContainerEngine.KUBERNETES };
  const { bay } = await bays.createBay({ bay: { metadata: { name: 'kube' }, spec } });
  const bayUid = bay?.metadata?.uid ?? '';
  return {
    api,
    bays,
    bayUid,
    cluster,
    pods: createClient(PodService, transport),
    services: createClient(ServiceService, transport),
    nodes: createClient(NodeService, transport),
    containers: createClient(ContainerService, transport),
    manifests: createClient(ManifestService, transport),
    explain: createClient(ExplainService, transport),
    /** Whether somebody leads the bay, and is believed. */
    leader: (fresh: boolean) => api.liveness.set(bayUid, fresh),
  };
}

/** A node, `worker`, that the leader of the bay has told of. */
async function addWorker({ api, bayUid }: Awaited<ReturnType<typeof fixture>>): Promise<void> {
  const { node } = await api.addNode(bayUid, 'worker');
  await api.store.write({
    reads: [{ uid: node.uid }],
    apply(view) {
      const stored = view.get({ uid: node.uid });
      if (!stored) throw new Error('there is none');
      const message = decode('Node', stored);
      if (message.spec) message.spec.publicKey = '';
      if (message.status) Object.assign(message.status, { phase: NodePhase.READY, reportedBy: 'master' });
      view.put(encode('Node', message, { ...stored, epoch: 0 }), '');
    },
  });
}

const pod = (name = 'web') => ({
  metadata: { bay: 'kube', name, labels: { app: name.slice(0, 63) } },
  spec: { manifest: { containers: [{ name: 'main', image: 'busybox', env: [{ name: 'N', value: '1' }] }] } },
});

test('a pod belongs to the bay, and its manifest comes back as it was', async (t) => {
  const f = await fixture(t);
  f.leader(true);
  const made = (await f.pods.createPod({ pod: pod() })).pod;
  t.is(made?.status?.phase, PodPhase.PENDING);
  t.deepEqual(made?.spec?.manifest, pod().spec.manifest);
  const uid = made?.metadata?.uid ?? '';
  t.is((await f.api.store.get({ uid }))?.assigneeUid, f.bayUid);
  t.deepEqual(
    (await f.api.store.assigned(f.bayUid)).objects.map((object) => object.uid),
    [uid],
  );

  // Labels and annotations are part of what the cluster gets: a change of theirs is a new generation, and a link of the chain.
  const { head } = await f.api.store.assigned(f.bayUid);
  const labelled = { ...pod(), metadata: { ...pod().metadata, labels: { app: 'other' } } };
  t.is((await f.pods.updatePod({ pod: labelled })).pod?.metadata?.generation, 2n);
  t.true((await f.api.store.assigned(f.bayUid)).head > head);
  t.is((await f.pods.updatePod({ pod: labelled })).pod?.metadata?.generation, 2n, 'the same again changes nothing');

  f.leader(false);
  const deleted = (await f.pods.deletePod({ bay: 'kube', name: 'web' })).pod;
  t.truthy(deleted?.metadata?.deleteTime);
  t.truthy((await f.pods.getPod({ bay: 'kube', name: 'web' })).pod, 'it stays until its agent has removed it');
});

test('names are as long as Kubernetes has them, and no longer', async (t) => {
  const f = await fixture(t);
  f.leader(true);
  const label = 'x'.repeat(60);
  const longest = `${label}.${label}.${label}.${label}.${'x'.repeat(9)}`;
  t.is(longest.length, 253);
  const { uid = '' } = (await f.pods.createPod({ pod: pod(longest) })).pod?.metadata ?? {};
  t.is((await f.pods.getPod({ bay: 'kube', name: longest })).pod?.metadata?.uid, uid);
  await refused(t, f.pods.createPod({ pod: pod(`${longest}x`) }), Code.InvalidArgument, /pod\.metadata\.name.*253/);
  const watch = f.pods.watchPods({ bay: 'kube', name: longest })[Symbol.asyncIterator]();
  t.is((await watch.next()).value?.pod?.metadata?.uid, uid);
  await watch.return?.();

  const metadata = { bay: 'kube', name: 'x'.repeat(63) };
  const spec = { manifest: { ports: [{ port: 80 }] } };
  t.truthy((await f.services.createService({ service: { metadata, spec } })).service);
  await refused(
    t,
    f.services.createService({ service: { metadata: { ...metadata, name: 'x'.repeat(64) }, spec } }),
    Code.InvalidArgument,
    /service\.metadata\.name: expected at most 63 characters, got 64/,
  );
  await refused(
    t,
    f.bays.createBay({ bay: { metadata: { name: 'x'.repeat(64) } } }),
    Code.InvalidArgument,
    /bay\.metadata\.name: expected at most 63/,
  );
});

test("what is only checked is checked by the cluster, whose words are the caller's", async (t) => {
  const f = await fixture(t);
  await refused(
    t,
    f.pods.createPod({ pod: pod(), validateOnly: true }),
    Code.Unavailable,
    /bay "kube" is offline, so its cluster cannot be asked/,
  );
  t.deepEqual(f.cluster.asked, []);
  f.leader(true);
  f.cluster.verdict = { live: { kind: 'Pod' }, merged: { kind: 'Pod', spec: { nodeName: 'n' } } };
  t.is((await f.pods.createPod({ pod: pod(), validateOnly: true })).pod?.metadata?.name, 'web');
  const apply = () => f.manifests.apply({ manifests: [{ object: { case: 'pod', value: pod() } }], validateOnly: true });
  t.like((await apply()).results[0], {
    outcome: ApplyOutcome.CREATED,
    live: { kind: 'Pod' },
    merged: { kind: 'Pod', spec: { nodeName: 'n' } },
  });
  t.deepEqual(f.cluster.asked, ['Pod web', 'Pod web']);
  await refused(t, f.pods.getPod({ bay: 'kube', name: 'web' }), Code.NotFound);

  const refusals = [
    [3, Code.InvalidArgument, 'spec.containers[0].image'],
    [9, Code.FailedPrecondition, ''],
    [7, Code.PermissionDenied, ''],
    [6, Code.AlreadyExists, ''],
    [5, Code.NotFound, ''],
    [14, Code.Unavailable, ''],
  ] as const;
  for (const [code, expected, field] of refusals) {
    f.cluster.verdict = { refusal: { ...refusal, code, field } };
    await refused(
      t,
      f.pods.createPod({ pod: pod(), validateOnly: true }),
      expected,
      /refuses it: no such image \(Why\)/,
    );
    const [result] = (await apply()).results;
    t.is(result?.outcome, ApplyOutcome.REFUSED);
    t.is(result?.error?.code, expected);
    if (field) t.is(result?.error?.field, `pod.${field}`);
  }
  // An ordinary create is not held up by it: the bay may be offline.
  t.is((await f.pods.createPod({ pod: pod() })).pod?.metadata?.name, 'web');
});
const refusal = {
  $typeName: 'baykeeper.bus.v1.CheckRefusal' as const,
  code: 0,
  reason: 'Why',
  message: 'no such image',
  field: '',
};

test('nodes of the cluster are as fresh as their leader, count in the bay, and are not for users to end', async (t) => {
  const f = await fixture(t);
  await addWorker(f);
  const shown = async () => (await f.nodes.getNode({ bay: 'kube', name: 'worker' })).node?.status;
  const bay = async () => (await f.bays.getBay({ name: 'kube' })).bay?.status;
  t.like(await shown(), { phase: NodePhase.UNKNOWN, reason: 'NodeSilent' });
  t.regex((await shown())?.message ?? '', /"master"/);
  f.leader(true);
  t.like(await shown(), { phase: NodePhase.READY });
  t.truthy((await shown())?.trustUntil);
  t.like(await bay(), { nodes: 1, nodesReady: 1 });
  f.leader(false);
  t.like(await shown(), { phase: NodePhase.UNKNOWN });
  t.like(await bay(), { nodes: 1, nodesReady: 0 });
  const ref = { bay: 'kube', name: 'worker' };
  await refused(t, f.nodes.deleteNode({ ...ref, force: true }), Code.FailedPrecondition, /belongs to the cluster/);
  await refused(t, f.nodes.revokeNode(ref), Code.FailedPrecondition, /belongs to the cluster/);
});

test('a watch of nodes is told when the leader falls silent', async (t) => {
  const f = await fixture(t);
  f.leader(true);
  await addWorker(f);
  const ended = new AbortController();
  const seen: (NodePhase | undefined)[] = [];
  try {
    for await (const { node: one } of f.nodes.watchNodes({ bay: 'kube' }, { signal: ended.signal })) {
      if (one) seen.push(one.status?.phase);
      if (seen.length === 1 && !one) f.leader(false);
      if (seen.length === 2) ended.abort();
    }
  } catch (error) {
    t.is(ConnectError.from(error).code, Code.Canceled);
  }
  t.deepEqual(seen, [NodePhase.READY, NodePhase.UNKNOWN]);
});

test('why speaks of the cluster, with its events; logs go to the leader', async (t) => {
  const targets: string[] = [];
  const f = await fixture(t, {
    streams: {
      async *podLogs(target, request) {
        targets.push(target.nodeUid, request.container);
        yield { $typeName: 'baykeeper.v1.PodLogsResponse', output: Buffer.from('hello\n') };
      },
    },
  });
  const uid = (await f.pods.createPod({ pod: pod() })).pod?.metadata?.uid ?? '';
  const logs = async () => {
    const parts: Uint8Array[] = [];
    for await (const { output } of f.pods.podLogs({ bay: 'kube', name: 'web', container: 'main' })) parts.push(output);
    return Buffer.concat(parts).toString();
  };
  await refused(t, logs(), Code.Unavailable);
  f.leader(true);
  t.is(await logs(), 'hello\n');
  t.deepEqual(targets, [f.bayUid, 'main']);
  await f.api.store.write({
    reads: [{ uid }],
    apply(view) {
      const stored = view.get({ uid });
      if (!stored) throw new Error('there is none');
      const message = decode('Pod', stored);
      Object.assign(message.status ?? {}, {
        phase: PodPhase.FAILED,
        reason: 'Conflict',
        message: 'a foreign pod has this name',
        node: 'master',
        delivery: {
          $typeName: 'baykeeper.v1.Delivery',
          receivedGeneration: 1n,
          appliedGeneration: 0n,
          observedGeneration: 1n,
        },
        events: [
          {
            $typeName: 'baykeeper.v1.ClusterEvent',
            type: 'Warning',
            reason: 'Failed',
            message: 'm',
            source: 's',
            count: 2,
          },
        ],
      });
      view.put(encode('Pod', message, stored), '');
    },
  });
  const why = await f.explain.why({ kind: Kind.POD, bay: 'kube', name: 'web' });
  t.is(why.steps[3]?.actor, 'kubernetes/master');
  t.regex(why.summary, /was refused by kubernetes\/master: Conflict/);
  t.like(why.events[0], { reason: 'Failed', count: 2 });
});

test('a container needs a Docker engine beside the cluster', async (t) => {
  const f = await fixture(t);
  const container = { metadata: { bay: 'kube', name: 'c' }, spec: { image: 'busybox' } };
  await refused(t, f.containers.createContainer({ container }), Code.FailedPrecondition, /without a Docker engine/);
  const elsewhere = { ...container, spec: { ...container.spec, node: 'worker' } };
  await refused(t, f.containers.createContainer({ container: elsewhere }), Code.InvalidArgument, /container.spec.node/);
  await refused(
    t,
    f.containers.createContainer({ container, validateOnly: true }),
    Code.FailedPrecondition,
    /without a Docker engine/,
  );
});
