import { create } from '@bufbuild/protobuf';
import test from 'ava';
import { ContainerSchema } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { WhyStage } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { ConditionStatus, NodeStatusSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { messagesRefused } from '../../proto/signing.ts';
import { explainAssigned } from './why.ts';

test('an agent that refuses what comes from the broker is a reason for waiting', (t) => {
  const why = (status: ConditionStatus) =>
    explainAssigned({
      kind: 'Container',
      object: create(ContainerSchema, {
        metadata: { uid: 'u', name: 'web', bay: 'b', generation: 1n },
        status: { node: 'n1' },
      }),
      assigneeUid: 'n',
      live: {
        fresh: true,
        connected: true,
        confirmTimeMs: 0,
        trustUntilMs: 1,
        appliedRevision: 1,
        assignedRevision: 2,
        status: create(NodeStatusSchema, {
          conditions: [
            { type: messagesRefused, status, reason: 'BadSignature', message: '3 messages were not believed' },
          ],
        }),
      },
      silence: { reason: '', message: '' },
      publishTimeMs: 0,
      brokerConnected: true,
      engine: 'docker',
    });
  const refused = why(ConditionStatus.TRUE);
  const received = refused.steps.find(({ stage }) => stage === WhyStage.RECEIVED);
  t.is(received?.reason, 'MessagesRefused');
  t.regex(received?.message ?? '', /not signed by the control plane: 3 messages were not believed\.$/);
  t.regex(refused.summary, /waits to be received by its agent \(MessagesRefused: /);
  t.regex(why(ConditionStatus.FALSE).summary, /Under way to the agent/);
});

test('where a container went after another node had refused it is told', (t) => {
  const delivery = { receivedGeneration: 1n, observedGeneration: 1n };
  const explain = (status: object) =>
    explainAssigned({
      kind: 'Container',
      object: create(ContainerSchema, {
        metadata: { uid: 'u', name: 'web', namespace: 'x', bay: 'b', generation: 1n },
        status: { node: 'n3', refusedBy: ['n1', 'n2'], delivery, ...status },
      }),
      assigneeUid: 'n',
      live: undefined,
      silence: { reason: 'NodeSilent', message: 'It says nothing.' },
      publishTimeMs: 0,
      brokerConnected: true,
      engine: 'docker',
    });
  const said = (status: object) =>
    explain(status).steps.find(({ stage }) => stage === WhyStage.PUBLISHED)?.message ?? '';
  t.is(said({}), 'It was given to n3, as the policy of n1, n2 forbids it.');
  t.is(said({ refusedBy: [] }), '');
  const refused = explain({ reason: 'ForbiddenByPolicy', message: 'the policy of the node forbids this' });
  t.is(
    refused.summary,
    'Container "web" of namespace "x" in bay "b" was refused by policy/n3: ForbiddenByPolicy: the policy of the node forbids this.',
  );
});
