import { create } from '@bufbuild/protobuf';
import test from 'ava';
import { ContainerPhase, MountType } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ExecuteStartSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { ConditionStatus } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { bench, running, sink, turns, until } from '../../test/harness/containers_bed.ts';
import { StreamError } from '../ports.ts';

/** What becomes of what the owner of the node forbids. */

test('what the node forbids is not made, not even pulled, and is made once it is allowed', async (t) => {
  const b = await bench(t);
  b.policy.set({ images: ['registry.example.com/team'], capabilities: ['CHOWN'] });
  b.desired.put('web', { capAdd: ['NET_ADMIN'] });
  await until(t, 'refused', () => b.status('web')?.reason === 'ForbiddenByPolicy');
  t.like(b.status('web'), {
    phase: ContainerPhase.FAILED,
    delivery: { observedGeneration: 1n, appliedGeneration: 0n },
  });
  t.is(
    b.status('web')?.message,
    'the policy of the node (/etc/baykeeper/agent.yaml) forbids this: spec.image: the image img:1 (docker.io/library/img); allowed is what is in ' +
      'registry.example.com/team, and spec.cap_add[0]: the capability NET_ADMIN; allowed: CHOWN',
  );
  t.is(b.status('web')?.retryTime, undefined);
  t.deepEqual(b.engine.calls, []);
  const policy = (await b.workloads.nodeStatus()).conditions.find(({ type }) => type === 'PolicyInForce');
  t.like(policy, { status: ConditionStatus.TRUE, reason: 'PolicyRead' });
  t.regex(policy?.message ?? '', /agent.yaml: privileged: allow, .*images: registry.example.com\/team$/);
  b.policy.set({});
  await until(t, 'running', () => running(b, 'web'));
});

test('what runs is stopped when it is forbidden, stays on the engine, and goes on when it is allowed', async (t) => {
  const b = await bench(t);
  b.desired.put('web', { mounts: [{ type: MountType.BIND, source: '/usr/bin', target: '/data' }] });
  b.desired.put('other', {});
  await until(t, 'running', () => running(b, 'web') && running(b, 'other'));
  const { id } = b.engine.named('web') ?? {};
  b.policy.set({ hostMounts: [{ path: '/usr', readOnly: true }] });
  await until(t, 'stopped', () => b.status('web')?.reason === 'ForbiddenByPolicy' && !running(b, 'web'));
  t.like(b.engine.named('web'), { id, state: 'exited' });
  t.like(b.status('web'), { phase: ContainerPhase.FAILED, delivery: { appliedGeneration: 0n } });
  t.true(running(b, 'other'));
  const c = await b.restarted();
  await turns();
  t.is(c.engine.named('web')?.state, 'exited');
  c.policy.set({ hostMounts: ['/usr'] });
  await until(t, 'running', () => running(c, 'web'));
  t.is(c.engine.named('web')?.id, id);
});

test('a change to something forbidden leaves what runs as it is, unless that is forbidden, too', async (t) => {
  const b = await bench(t);
  b.policy.set({ images: ['img'], capabilities: 'forbid' });
  b.desired.put('web');
  await until(t, 'running', () => running(b, 'web'));
  b.desired.put('web', { capAdd: ['SYS_ADMIN'] }, 2n);
  await until(t, 'refused', () => b.status('web')?.reason === 'ForbiddenByPolicy');
  t.like(b.status('web'), {
    phase: ContainerPhase.RUNNING,
    delivery: { observedGeneration: 2n, appliedGeneration: 1n },
  });
  b.policy.set({ images: 'forbid' });
  await until(t, 'stopped', () => b.engine.named('web')?.state === 'exited');
  b.desired.delete('web');
  await until(t, 'removed', () => b.engine.named('web') === undefined);
});

test('what cannot be read, or is not known to be wanted, is stopped all the same, and not removed', async (t) => {
  const b = await bench(t);
  b.desired.put('old');
  b.desired.put('lost');
  await until(t, 'running', () => running(b, 'old') && running(b, 'lost'));
  b.desired.put('old', { healthCheck: { command: ['x'], interval: { seconds: 10n ** 18n } } }, 2n);
  b.desired.drop('lost', { complete: false });
  await until(t, 'unusable', () => b.status('old')?.reason === 'Unsupported');
  b.policy.set({ images: 'forbid' });
  b.clock.pass(60_000);
  for (const name of ['old', 'lost']) {
    await until(t, `${name} is stopped`, () => b.engine.named(name)?.state === 'exited');
  }
});

test('no command goes into what is forbidden and takes its time to end; one into an allowed container beside a forbidden change does', async (t) => {
  const b = await bench(t);
  b.desired.put('web', { capAdd: ['CHOWN'] });
  await until(t, 'running', () => running(b, 'web'));
  const execute = () => b.workloads.openExecute('web', create(ExecuteStartSchema, { command: ['echo', 'in'] }), sink());
  b.policy.set({ images: ['img'] });
  b.desired.put('web', { image: 'other:1' }, 2n);
  await until(t, 'refused', () => b.status('web')?.reason === 'ForbiddenByPolicy');
  (await execute()).close();

  const slow = Promise.withResolvers<void>();
  b.engine.hook = async (when, call) => {
    if (when === 'before' && call === 'stop') await slow.promise;
  };
  b.policy.set({ capabilities: 'forbid', images: ['img'] });
  const error = await t.throwsAsync(execute(), { instanceOf: StreamError });
  t.like(error, { kind: 'forbidden' });
  t.regex(error.message, /^the policy of the node \(.*agent\.yaml\) forbids this container$/);
  t.is(b.engine.named('web')?.state, 'running');
  slow.resolve();
  await until(t, 'stopped', () => b.engine.named('web')?.state === 'exited');
});
