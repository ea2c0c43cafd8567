import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import test, { type ExecutionContext } from 'ava';
import { AssignmentOp, AssignmentSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ContainerSpecSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { ClusterBed, SettableDesired } from '../../test/harness/cluster_bed.ts';
import { type Kubernetes, startKubernetes } from '../../test/harness/kubernetes/cluster.ts';
import { until } from '../../test/harness/until.ts';
import { systemClock } from '../clock.ts';
import { createWorkloads } from '../containers/loop.ts';
import { FakeEngine } from '../drivers/fake.ts';
import { silentLog } from '../log.ts';
import { allowAll, fixedPolicy } from '../policy.ts';
import type { DockerSide } from './containers_side.ts';

/** Two masters, each with an engine beside the cluster: the bay's containers run on that of the leader. */

let cluster: Kubernetes;
test.before(async () => {
  cluster = await startKubernetes();
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const container = (name: string, op = AssignmentOp.PUT) =>
  create(AssignmentSchema, {
    uid: name,
    kind: Kind.CONTAINER,
    namespace: 'default',
    name,
    generation: 1n,
    op,
    spec: { case: 'container', value: { image: 'img:1' } },
  });

/** A master of a bay, and what is on its engine. */
async function master(t: ExecutionContext, nodeName: string, bayUid: string, desired: SettableDesired) {
  const dir = await mkdtemp(join(tmpdir(), 'bk-succession-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const engine = new FakeEngine({ images: ['img:1'] });
  const docker: DockerSide = {
    isThere: async () => true,
    version: async () => '20.10',
    create: async (part) =>
      createWorkloads({
        driver: engine,
        desired: part,
        reports: bed.reports,
        bayUid,
        nodeUid: nodeName,
        nodeName,
        clock: systemClock,
        log: silentLog,
        policy: fixedPolicy(allowAll),
        memoryFile: join(dir, 'memory.json'),
      }),
  };
  const bed = new ClusterBed(t, cluster, { nodeName, docker, bayUid, desired });
  const running = () =>
    engine
      .containers()
      .filter(({ state }) => state === 'running')
      .map(({ name }) => name)
      .sort();
  return { bed, engine, running };
}

test('containers of the bay follow its leader, and run once', async (t) => {
  const bayUid = randomUUID();
  const desired = new SettableDesired();
  const a = await master(t, 'master-a', bayUid, desired);
  await until('A leads', () => a.bed.leads);
  desired.assign(container('web'), container('db'));
  await until('they run on A', () => a.running().length === 2);
  const foreign = await a.engine.create({
    name: 'foreign',
    spec: create(ContainerSpecSchema, { image: 'img:1' }),
    labels: {},
  });
  await a.engine.start(foreign);

  // A ends: nobody knows whether it comes back, and what it runs goes on.
  const b = await master(t, 'master-b', bayUid, desired);
  await a.bed.stop();
  await until('they run on B', () => b.running().length === 2);
  t.deepEqual(a.running(), ['db', 'foreign', 'web']);
  desired.assign(container('db', AssignmentOp.DELETE));
  await until('it is removed', () => b.running().length === 1);
  desired.drop('db');
  t.deepEqual(a.running(), ['db', 'foreign', 'web']);

  // A is back and sees that B leads.
  await a.bed.restart();
  await until('A lets go of them', () => a.engine.containers().length === 1);
  t.deepEqual(a.running(), ['foreign'], 'what is not ours is left alone');
  t.deepEqual(b.running(), ['web']);
  t.is(a.bed.workloads.snapshot().length, 0);

  // And takes them over again.
  await b.bed.stop();
  await until('they run on A again', () => a.running().length === 2);
  t.deepEqual(a.running(), ['foreign', 'web']);
});

test('a master that does not know all that its bay has lets go of nothing', async (t) => {
  const bayUid = randomUUID();
  const desired = new SettableDesired();
  const a = await master(t, 'master-a', bayUid, desired);
  await until('A leads', () => a.bed.leads);
  desired.assign(container('web'));
  await until('it runs on A', () => a.running().length === 1);
  const all = new SettableDesired();
  all.assign(container('web'));
  const b = await master(t, 'master-b', bayUid, all);
  await a.bed.stop();
  await until('it runs on B', () => b.running().length === 1);
  desired.set({ complete: false }, []);
  await a.bed.restart();
  // Longer than it takes to see a renewal.
  const renewals = () =>
    a.bed.cluster.request('GET', `/apis/coordination.k8s.io/v1/namespaces/baykeeper/leases/baykeeper-${bayUid}`);
  const { body: first } = await renewals();
  await until('B has renewed', async () => JSON.stringify((await renewals()).body) !== JSON.stringify(first));
  const { body: second } = await renewals();
  await until('B has renewed again', async () => JSON.stringify((await renewals()).body) !== JSON.stringify(second));
  t.deepEqual(a.running(), ['web']);
  desired.set({ complete: true }, []);
  await until('A lets go of it', () => a.running().length === 0);
});
