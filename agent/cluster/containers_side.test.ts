import { create } from '@bufbuild/protobuf';
import test from 'ava';
import { AssignmentOp, AssignmentSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { putAssignment, RecordedReports, SettableDesired } from '../../test/harness/cluster_bed.ts';
import { FakeClock } from '../../test/harness/fake_clock.ts';
import { FakeWorkloads } from '../../test/harness/fake_workloads.ts';
import type { RunningWorkloads } from '../agent.ts';
import { silentLog } from '../log.ts';
import { ContainersSide } from './containers_side.ts';
import { Burials, DesiredPart } from './desired_part.ts';

const container = (uid: string, op = AssignmentOp.PUT) =>
  create(AssignmentSchema, {
    uid,
    kind: Kind.CONTAINER,
    name: uid,
    generation: 3n,
    op,
    spec: { case: 'container', value: {} },
  });

function bed(isThere: () => boolean | Promise<boolean>) {
  const desired = new SettableDesired();
  const reports = new RecordedReports();
  const clock = new FakeClock();
  const made: FakeWorkloads[] = [];
  const burials = new Burials(desired, () => ['docker']);
  const side = new ContainersSide({
    desired,
    reports,
    clock,
    nodeName: 'master-1',
    log: silentLog,
    buried: (uid) => burials.confirm('docker', uid),
    docker: {
      isThere: async () => isThere(),
      version: async () => '20.10',
      create: async (part) => {
        const workloads = new FakeWorkloads({ desired: part, reports });
        made.push(workloads);
        return workloads satisfies RunningWorkloads;
      },
    },
  });
  return { desired, reports, clock, side, made };
}

const reasonOf = ({ reports }: ReturnType<typeof bed>, uid: string) => {
  const status = reports.latest.get(uid)?.status;
  return status?.case === 'container' ? status.value.reason : undefined;
};

test('containers of the bay run on the engine of who leads, and pods are none of its business', async (t) => {
  const b = bed(() => true);
  b.desired.assign(container('a'), putAssignment('Pod', 'web', {}, { uid: 'p' }));
  await b.side.become('leads');
  t.deepEqual([...(b.made[0]?.running.keys() ?? [])], ['a']);
  b.desired.assign(container('b'), putAssignment('Pod', 'web2', {}, { uid: 'p2' }));
  t.deepEqual([...(b.made[0]?.running.keys() ?? [])], ['a', 'b']);
  t.deepEqual(
    b.side.snapshot().map(({ uid }) => uid),
    ['a', 'b'],
  );
});

test('who no longer leads lets go of them, and what runs stays', async (t) => {
  const b = bed(() => true);
  b.desired.assign(container('a'));
  await b.side.become('leads');
  await b.side.become('idle');
  t.is(b.side.loop, undefined);
  t.deepEqual(b.side.snapshot(), []);
  b.desired.assign(container('a', AssignmentOp.DELETE));
  t.deepEqual(b.made[0]?.removals, []);
  await b.side.become('leads');
  t.is(b.made.length, 2);
});

test('who knows that another leads has nothing of them any more, until it leads again', async (t) => {
  const b = bed(() => true);
  b.desired.assign(container('a'));
  await b.side.become('leads');
  await b.side.become('follows');
  t.is(b.side.loop, undefined);
  t.deepEqual(b.side.snapshot(), []);
  const [led, sweep] = b.made;
  t.deepEqual([...(led?.running.keys() ?? [])], ['a']);
  t.deepEqual(sweep?.context.desired.current, { complete: true, objects: new Map(), graves: new Set() });
  b.desired.assign(container('b'));
  t.is(sweep?.running.size, 0);
  await b.side.become('follows');
  t.is(b.made.length, 2);
  await b.side.become('leads');
  t.deepEqual([...(b.made[2]?.running.keys() ?? [])], ['a', 'b']);
});

test('an engine that is there only later is cleared of them then', async (t) => {
  let there = false;
  const b = bed(() => there);
  b.desired.assign(container('a'));
  await b.side.become('follows');
  t.is(b.reports.all.length, 0);
  there = true;
  await b.clock.advance(10_000);
  t.is(b.made.length, 1);
  t.is(b.made[0]?.running.size, 0);
});

test('without an engine that is said of every container, until there is one', async (t) => {
  let there = false;
  const b = bed(() => there);
  b.desired.assign(
    container('a'),
    container('gone', AssignmentOp.DELETE),
    putAssignment('Pod', 'web', {}, { uid: 'p' }),
  );
  await b.side.become('leads');
  t.is(reasonOf(b, 'a'), 'NoDockerEngine');
  t.true(b.reports.latest.get('gone')?.removed);
  t.false(b.reports.latest.has('p'));
  b.desired.assign(container('b'));
  t.is(reasonOf(b, 'b'), 'NoDockerEngine');
  t.is(b.side.snapshot().length, 3);
  there = true;
  await b.clock.advance(10_000);
  t.deepEqual([...(b.made[0]?.running.keys() ?? [])], ['a', 'b']);
});

test('nothing is said of containers before it is known whether there is an engine', async (t) => {
  const looked = Promise.withResolvers<boolean>();
  const b = bed(() => looked.promise);
  b.desired.assign(container('a'));
  const led = b.side.become('leads');
  t.deepEqual(b.side.snapshot(), []);
  t.is(b.side.unseen, 1);
  looked.resolve(false);
  await led;
  t.is(b.side.snapshot().length, 1);
  t.is(b.side.unseen, 0);
});

test('a grave is closed when every engine has said that nothing is left on it', async (t) => {
  const desired = new SettableDesired();
  desired.assign(container('a'));
  desired.drop('a');
  let engines = ['kubernetes', 'docker'];
  const burials = new Burials(desired, () => engines);
  await burials.confirm('kubernetes', 'a');
  t.true(desired.current.graves.has('a'));
  await burials.confirm('docker', 'a');
  t.false(desired.current.graves.has('a'));
  desired.assign(container('b'));
  desired.drop('b');
  engines = ['kubernetes'];
  await burials.confirm('kubernetes', 'b');
  t.is(desired.current.graves.size, 0);
});

test('a part of the desired state is told of its own changes and of what is no longer there', (t) => {
  const desired = new SettableDesired();
  const part = new DesiredPart(
    desired,
    ({ kind }) => kind === Kind.CONTAINER,
    async () => undefined,
  );
  const told: string[][] = [];
  part.subscribe((uids) => told.push([...uids]));
  desired.assign(container('a'), putAssignment('Pod', 'web', {}, { uid: 'p' }));
  desired.assign(putAssignment('Pod', 'web', {}, { uid: 'p' }));
  desired.drop('p');
  t.deepEqual(told, [['a'], ['p']]);
  t.deepEqual([...part.current.objects.keys()], ['a']);
  t.deepEqual([...part.current.graves], ['p']);
  t.is(part.current, part.current);
});
