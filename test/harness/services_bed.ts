import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { createClient } from '@connectrpc/connect';
import type { ExecutionContext } from 'ava';
import { BayModelService } from '../../proto/gen/baykeeper/v1/bay_model_service_pb.js';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { EnrollmentService } from '../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import { ExplainService } from '../../proto/gen/baykeeper/v1/explain_service_pb.js';
import { JoinTokenService } from '../../proto/gen/baykeeper/v1/join_token_service_pb.js';
import { ManifestService } from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { SystemService } from '../../proto/gen/baykeeper/v1/system_service_pb.js';
import type { KeyPair } from '../../proto/nkeys.ts';
import { type ApiFixtureOptions, startApi } from './api_fixture.ts';

/** The API with bay `edge-1`, and a client of each service. */
export async function fixture(t: ExecutionContext, options: ApiFixtureOptions = {}) {
  const api = await startApi(options);
  t.teardown(() => api[Symbol.asyncDispose]());
  const transport = api.transport();
  const bays = createClient(BayService, transport);
  const { bay } = await bays.createBay({ bay: { metadata: { name: 'edge-1' } } });
  const bayUid = bay?.metadata?.uid ?? '';
  return {
    api,
    bays,
    bayUid,
    bayModels: createClient(BayModelService, transport),
    containers: createClient(ContainerService, transport),
    nodes: createClient(NodeService, transport),
    manifests: createClient(ManifestService, transport),
    tokens: createClient(JoinTokenService, transport),
    explain: createClient(ExplainService, transport),
    system: createClient(SystemService, transport),
    enrollment: createClient(EnrollmentService, api.transport({ token: '' })),
    addNode: async (name: string) => {
      const { node } = await api.addNode(bayUid, name);
      api.placement.node = node;
      api.liveness.set(node.uid, true);
      return node.uid;
    },
  };
}
type Fixture = Awaited<ReturnType<typeof fixture>>;

/** For a call that makes one. */
export const web = (name = 'web') => ({ metadata: { bay: 'edge-1', name }, spec: { image: 'busybox' } });

/** That who asks has this key. */
export async function proofOf({ enrollment }: Pick<Fixture, 'enrollment'>, key: KeyPair) {
  const publicKey = key.getPublicKey();
  const { challenge } = await enrollment.createChallenge({ publicKey });
  return { publicKey, challenge, signature: key.sign(challenge) };
}

/** Enrols a node by a token, and resolves with its credentials. */
export async function enroll(
  f: Fixture,
  token: string,
  key: KeyPair,
  more: { bay?: string; nodeName?: string; skewMs?: number } = {},
) {
  const { credentials } = await f.enrollment.enroll({
    token,
    proof: await proofOf(f, key),
    bay: more.bay ?? '',
    nodeName: more.nodeName ?? 'rack',
    time: timestampFromMs(f.api.clock.now() + (more.skewMs ?? 0)),
    agentVersion: '0.1.0',
  });
  return credentials;
}
