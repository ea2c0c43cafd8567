import { create, type MessageInitShape } from '@bufbuild/protobuf';
import test from 'ava';
import { ContainerSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { createMessageRules, RulesError } from './message_rules.ts';

const check = createMessageRules();
const container = (spec: NonNullable<MessageInitShape<typeof ContainerSchema>['spec']>) =>
  create(ContainerSchema, { metadata: { bay: 'local', name: 'web' }, spec });

test('all that breaks the rules is told at once, but for what is without end', (t) => {
  const few = t.throws(() => check(ContainerSchema, container({ env: [{}, {}] }), 'container'), {
    instanceOf: RulesError,
  });
  t.deepEqual(few?.violations.map(({ field }) => field).sort(), [
    'container.spec.env[0].name',
    'container.spec.env[1].name',
    'container.spec.image',
    'container.spec.image',
  ]);
  const endless = container({ image: 'busybox', env: new Array(200_000).fill({}) });
  const before = process.cpuUsage();
  t.throws(() => check(ContainerSchema, endless), { instanceOf: RulesError, message: /no more than 1024 item/ });
  t.true(process.cpuUsage(before).user < 200_000);
});
