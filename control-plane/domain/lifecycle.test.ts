import { clone, create, equals } from '@bufbuild/protobuf';
import { FieldMaskSchema } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import fc from 'fast-check';
import { BayModelSchema } from '../../proto/gen/baykeeper/v1/bay_model_pb.js';
import {
  type Container,
  ContainerSchema,
  ContainerSpecSchema,
  PowerState,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ConflictError, InvalidError, PreconditionError } from './errors.ts';
import { applyPower, changeSpec, deleteObject, newObject, type PowerOperation, updateObject } from './lifecycle.ts';
import { decode, encode, newRecord } from './record.ts';

const uid = '01a20333-b26b-7494-981c-6f8fb7e96448';
const made = { uid, project: 'p', bay: 'b', nowMs: 1_000 };
const input = (init: object = {}) =>
  create(ContainerSchema, { metadata: { name: 'web' }, spec: { image: 'busybox' }, ...init });
const fresh = (): Container => newObject('Container', input(), made);

test('making an object changes nothing of what it is made from but its defaults', (t) => {
  const given = input({ metadata: { name: 'web', etag: 'x', generation: 7n } });
  const object = newObject('Container', given, made);
  t.is(given.metadata?.etag, 'x');
  t.is(object.metadata?.generation, 1n);
  // A write may run twice: the second time gives the same.
  t.true(equals(ContainerSchema, object, newObject('Container', given, made)));
});

test('what is stored is what is read', (t) => {
  const object = fresh();
  const stored = encode('Container', object, newRecord('bay-uid', 'node-uid'))(42);
  t.is(stored.revision, 42);
  t.is(stored.generation, 1);
  t.is(stored.createTimeMs, 1_000);
  t.false(stored.deleting);
  t.true(equals(ContainerSchema, decode('Container', stored), object));
  // Whoever wrote the body, the record's revision counts.
  t.is(decode('Container', { ...stored, revision: 43 }).metadata?.revision, 43n);
});

interface Step {
  readonly kind: 'update' | 'labels' | 'power' | 'delete' | 'report';
  readonly image: string;
  readonly label: string;
  readonly operation: PowerOperation;
}
const steps = fc.array(
  fc.record<Step>({
    kind: fc.constantFrom('update', 'labels', 'power', 'delete', 'report'),
    image: fc.constantFrom('a', 'b', 'c'),
    label: fc.constantFrom('x', 'y'),
    operation: fc.constantFrom('start', 'stop', 'pause', 'unpause', 'reboot'),
  }),
  { maxLength: 30 },
);

test('whatever users do: generations count specs, etags count writes, and nothing changes once it is to go', (t) => {
  fc.assert(
    fc.property(steps, (sequence) => {
      let object = fresh();
      let nowMs = 2_000;
      const etags = new Set([object.metadata?.etag]);
      for (const step of sequence) {
        nowMs += 1;
        const before = clone(ContainerSchema, object);
        let after: Container;
        try {
          after = run(object, step, nowMs);
        } catch (error) {
          t.true(error instanceof PreconditionError);
          t.true(equals(ContainerSchema, object, before), 'a refused write leaves everything as it was');
          continue;
        }
        const was = before.metadata;
        const is = after.metadata;
        const sameSpec = equals(
          ContainerSpecSchema,
          before.spec ?? create(ContainerSpecSchema),
          after.spec ?? create(ContainerSpecSchema),
        );
        t.is(is?.generation, (was?.generation ?? 0n) + (sameSpec ? 0n : 1n));
        const sameLabels = JSON.stringify(was?.labels) === JSON.stringify(is?.labels);
        const written = !sameSpec || !sameLabels || (!was?.deleteTime && is?.deleteTime !== undefined);
        t.is(is?.etag !== was?.etag, written);
        if (written) t.false(etags.has(is?.etag), 'an etag never comes back');
        etags.add(is?.etag);
        if (was?.deleteTime) t.false(written);
        t.true((after.spec?.reboots ?? 0n) >= (before.spec?.reboots ?? 0n));
        t.is(is?.uid, uid);
        t.deepEqual(is?.createTime, was?.createTime);
        object = after;
      }
    }),
  );
});

function run(object: Container, step: Step, nowMs: number): Container {
  switch (step.kind) {
    case 'update':
      return updateObject('Container', object, input({ spec: { image: step.image } }), undefined, nowMs).object;
    case 'labels': {
      const change = input({ metadata: { name: 'web', labels: { tier: step.label } } });
      return updateObject('Container', object, change, create(FieldMaskSchema, { paths: ['metadata.labels'] }), nowMs)
        .object;
    }
    case 'power':
      return changeSpec('Container', object, '', nowMs, (spec) => applyPower(spec, step.operation, 'web')).object;
    case 'delete':
      return deleteObject('Container', clone(ContainerSchema, object), {
        etag: '',
        force: false,
        assigned: true,
        nowMs,
      }).object;
    case 'report': {
      const next = clone(ContainerSchema, object);
      if (next.status) next.status.restarts += 1;
      return next;
    }
  }
}

test('an update with another etag is a conflict', (t) => {
  const change = input({ metadata: { name: 'web', etag: 'old' } });
  t.throws(() => updateObject('Container', fresh(), change, undefined, 2_000), { instanceOf: ConflictError });
  t.throws(() => deleteObject('Container', fresh(), { etag: 'old', force: true, assigned: true, nowMs: 2_000 }), {
    instanceOf: ConflictError,
  });
});

test('a mask reaches into messages that were not there, and clears what is left out', (t) => {
  const paths = ['spec.resources.memory_bytes', 'spec.env'];
  const with64 = input({ spec: { image: 'ignored', resources: { memoryBytes: 64n << 20n }, env: [{ name: 'A' }] } });
  const first = updateObject('Container', fresh(), with64, create(FieldMaskSchema, { paths }), 2_000).object;
  t.is(first.spec?.image, 'busybox');
  t.is(first.spec?.resources?.memoryBytes, 64n << 20n);
  t.is(first.spec?.env.length, 1);
  const cleared = updateObject('Container', first, input(), create(FieldMaskSchema, { paths }), 3_000).object;
  t.is(cleared.spec?.resources?.memoryBytes, 0n);
  t.is(cleared.spec?.env.length, 0);
  // A default comes back where its field is cleared.
  const reset = updateObject(
    'Container',
    first,
    input(),
    create(FieldMaskSchema, { paths: ['spec.stop_timeout'] }),
    3_000,
  );
  t.is(reset.object.spec?.stopTimeout?.seconds, 10n);
  t.false(reset.changed);
});

test('rules that hold between fields name the field', (t) => {
  const model = (spec: object) =>
    newObject('BayModel', create(BayModelSchema, { metadata: { name: 'm' }, spec }), made);
  for (const fixedNetwork of ['10.0.0.0/24', 'fd00::/8']) t.notThrows(() => model({ fixedNetwork }));
  for (const fixedNetwork of ['10.0.0.0/33', '10.0.0/24', 'fd00::/129', 'x', '10.0.0.0', '10.0.0.0/24/1']) {
    t.throws(() => model({ fixedNetwork }), { instanceOf: InvalidError, message: /fixed_network/ }, fixedNetwork);
  }
  for (const dnsServer of ['8.8.8.8', '2001:4860::8888']) t.notThrows(() => model({ dnsServer }));
  for (const dnsServer of ['8.8.8', '256.1.1.1', '8.8.8.8.', '::g', 'localhost']) {
    t.throws(() => model({ dnsServer }), { message: /dns_server/ }, dnsServer);
  }
  t.is(fresh().spec?.powerState, PowerState.RUNNING);
});
