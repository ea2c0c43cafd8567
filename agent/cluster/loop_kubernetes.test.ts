import test from 'ava';
import { PodPhase } from '../../proto/gen/baykeeper/v1/pod_pb.js';
import { ServicePhase } from '../../proto/gen/baykeeper/v1/service_pb.js';
import { ClusterBed } from '../../test/harness/cluster_bed.ts';
import { type Kubernetes, startKubernetes } from '../../test/harness/kubernetes/cluster.ts';

let cluster: Kubernetes;
test.before(async () => {
  cluster = await startKubernetes({ audit: true });
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const pod = (image = 'busybox:test') => ({ containers: [{ name: 'web', image, ports: [{ containerPort: 80 }] }] });

test.serial('a pod, a service and a controller are applied, reported, and removed', async (t) => {
  const bed = new ClusterBed(t, cluster);
  const uid = bed.put('Pod', 'web', pod(), { labels: { app: 'web' } });
  const service = bed.put('Service', 'web', { selector: { app: 'web' }, ports: [{ port: 80 }] });
  const status = await bed.applied(uid);
  t.is(status.phase, PodPhase.PENDING as number);
  t.is((await bed.applied(service)).phase, ServicePhase.RUNNING as number);
  bed.delete(uid);
  await bed.removed(uid);
});
