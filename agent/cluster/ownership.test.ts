import test from 'ava';
import type { ManagedFields, ObjectMeta } from '../drivers/cluster_driver.ts';
import { objectUidOf, strayedFields, whoseObject } from './ownership.ts';

const meta = (change: Partial<ObjectMeta> = {}): ObjectMeta => ({
  name: 'web',
  namespace: 'default',
  uid: 'c1',
  resourceVersion: '1',
  ...change,
});
const entry = (
  manager: string,
  fieldsV1: ManagedFields['fieldsV1'],
  more: Partial<ManagedFields> = {},
): ManagedFields => ({
  manager,
  operation: 'Update',
  fieldsV1,
  ...more,
});
const manifest = { spec: { replicas: 3, selector: { app: 'web' } } };

test('an object is ours by both labels, and by nothing less', (t) => {
  const both = { 'baykeeper.io/uid': 'u1', 'baykeeper.io/bay': 'bay-1' };
  t.is(objectUidOf(meta({ labels: both }), 'bay-1'), 'u1');
  t.is(objectUidOf(meta({ labels: both }), 'bay-2'), undefined);
  t.is(objectUidOf(meta({ labels: { 'baykeeper.io/uid': 'u1' } }), 'bay-1'), undefined);
  t.is(objectUidOf(meta({ labels: { 'baykeeper.io/bay': 'bay-1' } }), 'bay-1'), undefined);
  t.is(objectUidOf(meta(), 'bay-1'), undefined);
});

test('fields that strayed are named with who has them now', (t) => {
  const managedFields = [
    entry('baykeeper', { 'f:spec': { 'f:selector': {} } }, { operation: 'Apply' }),
    entry('kubectl-edit', { 'f:spec': { 'f:replicas': {} } }),
    entry('kube-controller-manager', { 'f:status': { 'f:replicas': {} } }, { subresource: 'status' }),
  ];
  t.deepEqual(strayedFields(manifest, meta({ managedFields }), 'baykeeper', 4), [
    { path: 'spec.replicas', managers: ['kubectl-edit'] },
  ]);
  t.deepEqual(strayedFields(manifest, meta(), 'baykeeper', 1), [{ path: 'spec.replicas', managers: [] }]);
});

test('what admission changed in our name is still ours', (t) => {
  const managedFields = [
    entry('baykeeper', { 'f:spec': { 'f:selector': {} } }, { operation: 'Apply' }),
    entry('baykeeper', { 'f:spec': { 'f:replicas': {} } }),
  ];
  t.deepEqual(strayedFields(manifest, meta({ managedFields }), 'baykeeper', 4), []);
});

test('whose an object is, and who owns what of it, is said', (t) => {
  const paths = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`f:field${i}`, {}]));
  const managedFields = [
    entry('kubectl-create', { 'f:spec': paths }),
    entry('kubelet', { 'f:status': { 'f:phase': {} } }),
    entry('mesh', { 'f:metadata': { 'f:annotations': { 'f:mesh.io/x': {} } } }),
  ];
  const said = whoseObject('bay-1', 'Pod', { metadata: meta({ managedFields }) });
  t.regex(
    said,
    /^Pod default\/web is in the cluster already and was not made by Baykeeper; kubectl-create owns spec\.field0, /,
  );
  t.regex(said, /spec\.field11 and 8 more; mesh owns metadata\.annotations\.mesh\.io\/x; it is left alone: .*adopt/);
  t.false(said.includes('kubelet'));
  const labels = { 'baykeeper.io/uid': 'u9', 'baykeeper.io/bay': 'bay-9' };
  t.regex(
    whoseObject('bay-1', 'Pod', { metadata: meta({ labels }) }),
    /belongs to another bay \(bay-9\); it is left alone/,
  );
  t.regex(whoseObject('bay-9', 'Pod', { metadata: meta({ labels }) }), /of the object with uid u9 of this bay/);
});
