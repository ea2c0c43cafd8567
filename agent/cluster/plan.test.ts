import test from 'ava';
import fc from 'fast-check';
import { AssignmentOp } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { Kind } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { putAssignment } from '../../test/harness/cluster_bed.ts';
import type { DesiredState } from '../ports.ts';
import type { Live } from './live.ts';
import { type Manifest, manifestOf } from './manifest.ts';
import type { Foreign } from './ownership.ts';
import { planObject, strayedKey, type View, type Wanted, wantedOf } from './plan.ts';

const uid = '0197e1d2-0000-7000-8000-000000000001';
const assignment = putAssignment('Pod', 'web', { containers: [] }, { uid });
const manifest = manifestOf(assignment, 'bay-1') as Manifest;
const adopting = { ...manifest, adopt: true };
const present = (of = manifest): Wanted => ({ kind: 'present', uid, generation: 1n, manifest: of });

const live = (change: Partial<Live> = {}): Live => ({
  kind: 'Pod',
  namespace: 'default',
  name: 'web',
  objectUid: uid,
  clusterUid: 'c1',
  resourceVersion: '5',
  applied: manifest.hash,
  appliedMs: 1,
  wrote: true,
  shared: false,
  strayed: [],
  checked: manifest.hash,
  owned: '',
  ending: undefined,
  finalizers: [],
  asks: [],
  facts: { kind: 'Pod', node: '', containers: 1, graceSeconds: 30 },
  status: '{}',
  ...change,
});
const view = (change: Partial<View> = {}): View => ({
  live: [],
  unsure: false,
  foreign: undefined,
  refused: undefined,
  accepted: undefined,
  ...change,
});
const foreign: Foreign = { clusterUid: 'f1', resourceVersion: '9', ending: false, whose: 'theirs', asks: [] };
const kindOf = (wanted: Wanted, change: Partial<View> = {}) => planObject(wanted, view(change)).kind;
const strayed = [{ path: 'spec.x', managers: ['kubectl-edit'] }];

test('what is missing is made, and what is as asked is left', (t) => {
  t.is(kindOf(present()), 'create');
  t.is(kindOf(present(), { live: [live()] }), 'settled');
});

test('what was applied otherwise, or was changed since, is applied', (t) => {
  t.is(kindOf(present(), { live: [live({ applied: 'before', checked: '' })] }), 'apply');
  t.is(kindOf(present(), { live: [live({ applied: '', checked: '' })] }), 'apply');
  const plan = planObject(present(), view({ live: [live({ strayed })] }));
  t.like(plan, { kind: 'apply', strayed });
});

test('what stays changed right after it was applied is left at that, until something else changes', (t) => {
  const accepted = { hash: manifest.hash, strayed: strayedKey(strayed) };
  t.is(kindOf(present(), { live: [live({ strayed })], accepted }), 'settled');
  const more = [...strayed, { path: 'spec.y', managers: [] }];
  t.is(kindOf(present(), { live: [live({ strayed: more })], accepted }), 'apply');
  t.is(kindOf(present(), { live: [live({ strayed })], accepted: { ...accepted, hash: 'other' } }), 'apply');
});

test('what is not known for sure is looked at before anything is made of it', (t) => {
  t.is(kindOf(present(), { live: [live()], unsure: true }), 'look');
  t.is(kindOf(present(), { live: [live({ checked: '' })] }), 'look');
});

test('what may not be changed in place is replaced: just that one, for just that manifest', (t) => {
  const changed = live({ applied: 'before', checked: '' });
  const refused = { hash: manifest.hash, clusterUid: 'c1' };
  t.is(kindOf(present(), { live: [changed], refused }), 'replace');
  t.is(kindOf(present(), { live: [changed], refused: { ...refused, clusterUid: 'c0' } }), 'apply');
  t.is(kindOf(present(), { live: [changed], refused: { ...refused, hash: 'other' } }), 'apply');
});

test('what is on its way out is waited for, whoever wanted that', (t) => {
  const ending = { dueMs: 1, graceSeconds: 30 };
  t.is(kindOf(present(), { live: [live({ ending })] }), 'await-end');
  t.is(kindOf({ kind: 'absent', uid, place: manifest }, { live: [live({ ending })] }), 'await-end');
});

test('what is forbidden is ended, within half a minute, and what is there of another manifest by what that asks', (t) => {
  const verdict = (wanted: boolean, there: boolean, failing = false) => ({
    ...{ wanted, live: () => there, older: wanted || failing },
  });
  const ending = (graceSeconds: number) => [live({ ending: { dueMs: 1, graceSeconds }, facts })];
  const facts = { kind: 'Pod', node: 'n1', containers: 1, graceSeconds: 600 } as const;
  const forbidden = (change: Partial<View>) => planObject(present(), view({ verdict: verdict(true, true), ...change }));
  t.is(forbidden({}).kind, 'forbidden');
  t.like(forbidden({ live: [live()] }), { kind: 'delete', endSeconds: 30 });
  t.like(forbidden({ live: ending(600) }), { kind: 'delete', endSeconds: 30 });
  t.is(forbidden({ live: ending(30) }).kind, 'await-end');
  const older = { live: [live({ applied: 'before', checked: '' })] };
  t.is(kindOf(present(), { ...older, verdict: verdict(true, false) }), 'forbidden');
  t.is(kindOf(present(), { ...older, verdict: verdict(false, true) }), 'apply');
  t.is(kindOf(present(), { ...older, verdict: verdict(false, true, true) }), 'delete');
  t.is(kindOf(present(), { live: [live()], verdict: verdict(false, true) }), 'settled');
  // What was taken over is what it was, whatever is wanted of it.
  t.is(kindOf(present(), { live: [live({ shared: true })], verdict: verdict(false, true) }), 'delete');
  t.is(kindOf(present(), { live: [live({ shared: true })], verdict: verdict(false, false) }), 'settled');
  t.is(
    kindOf(present(), { live: [live({ applied: 'before', shared: true })], verdict: verdict(false, true) }),
    'delete',
  );
});

test("somebody else's object is a conflict, unless it is to be taken over", (t) => {
  t.is(kindOf(present(), { foreign }), 'conflict');
  t.is(kindOf(present(adopting), { foreign }), 'adopt');
  t.is(kindOf(present(adopting), { foreign: { ...foreign, ending: true } }), 'conflict');
  const refused = { hash: manifest.hash, clusterUid: 'f1' };
  t.is(kindOf(present(adopting), { foreign, refused }), 'replace');
  t.is(kindOf(present(), { foreign, refused }), 'conflict');
});

test('only what is in its place is removed, or what the cluster has noted us as a writer of', (t) => {
  const at: Wanted = { kind: 'absent', uid, place: manifest };
  const anywhere: Wanted = { kind: 'absent', uid, place: undefined };
  const copy = live({ name: 'copy', wrote: false });
  t.is(kindOf(at), 'gone');
  t.is(kindOf(at, { live: [copy] }), 'gone');
  t.like(planObject(at, view({ live: [live(), copy] })), { kind: 'delete', targets: [{ name: 'web' }] });
  t.is(kindOf(anywhere, { live: [copy] }), 'gone');
  t.like(planObject(anywhere, view({ live: [live(), copy] })), { kind: 'delete', targets: [{ name: 'web' }] });
});

const desired = (change: Partial<DesiredState>): DesiredState => ({
  complete: false,
  objects: new Map(),
  graves: new Set(),
  ...change,
});
const entry = (of = assignment) => new Map([[uid, { assignment: of, publishTimeMs: 0, receiveTimeMs: 0 }]]);
const wanted = (change: Partial<DesiredState>) => wantedOf(desired(change), uid, (one) => manifestOf(one, 'bay-1'));

test('silence never removes anything', (t) => {
  t.is(wanted({}).kind, 'untouched');
  t.is(wanted({ complete: true }).kind, 'absent');
  t.is(wanted({ graves: new Set([uid]) }).kind, 'absent');
  t.is(wanted({ graves: new Set(['another']) }).kind, 'untouched');
});

test('an assignment is what is wanted, and its end where it is', (t) => {
  t.is(wanted({ objects: entry() }).kind, 'present');
  t.is(wanted({ objects: entry(), graves: new Set([uid]) }).kind, 'present');
  const ending = wanted({ objects: entry({ ...assignment, op: AssignmentOp.DELETE }) });
  t.like(ending, { kind: 'absent', place: { kind: 'Pod', namespace: 'default', name: 'web' } });
});

test('what is for another engine is not touched', (t) => {
  t.is(wanted({ objects: entry({ ...assignment, kind: Kind.CONTAINER }), complete: true }).kind, 'untouched');
});

const anyLive = fc.record({
  name: fc.constantFrom('web', 'copy'),
  applied: fc.constantFrom(manifest.hash, 'before', ''),
  checked: fc.constantFrom(manifest.hash, ''),
  wrote: fc.boolean(),
  strayed: fc.constantFrom([], strayed),
  ending: fc.constantFrom(undefined, { dueMs: 1, graceSeconds: 1 }),
});
const anyView = fc.record({
  live: fc.array(anyLive, { maxLength: 2 }).map((all) => all.map((one) => live(one))),
  unsure: fc.boolean(),
  foreign: fc.constantFrom(undefined, foreign),
  refused: fc.constantFrom(
    undefined,
    { hash: manifest.hash, clusterUid: 'c1' },
    { hash: manifest.hash, clusterUid: 'f1' },
  ),
  accepted: fc.constant(undefined),
});

test('whatever is there: nothing is deleted that is wanted, but to be replaced, and nothing of somebody else unless asked for', (t) => {
  fc.assert(
    fc.property(anyView, fc.boolean(), (seen, adopt) => {
      const plan = planObject(present(adopt ? adopting : manifest), seen);
      if (plan.kind === 'delete' || plan.kind === 'gone') return false;
      if (plan.kind === 'adopt') return adopt && !foreign.ending;
      if (plan.kind !== 'replace') return true;
      return plan.clusterUid === 'f1' ? adopt : seen.live.some(({ clusterUid }) => clusterUid === plan.clusterUid);
    }),
  );
  t.pass();
});

test('whatever is there: what nothing is known of is left alone', (t) => {
  fc.assert(fc.property(anyView, (seen) => planObject({ kind: 'untouched', uid }, seen).kind === 'none'));
  t.pass();
});
