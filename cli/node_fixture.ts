import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { ConditionStatus, type Node, NodePhase, NodeSchema } from '../proto/gen/baykeeper/v1/node_pb.js';

/** A node that is ready, with figures. */
export function readyNode(name: string): Node {
  return create(NodeSchema, {
    metadata: {
      name,
      bay: 'local',
      uid: '01900000-0000-7000-8000-000000000500',
      createTime: timestampFromMs(Date.now() - 3_600_000),
    },
    spec: { publicKey: 'UABC' },
    status: {
      phase: NodePhase.READY,
      agentVersion: '0.1.0',
      observeTime: timestampFromMs(Date.now()),
      conditions: [{ type: 'Ready', status: ConditionStatus.TRUE, lastTransitionTime: timestampFromMs(Date.now()) }],
      info: { engine: 'docker', engineVersion: '20.10', cpus: 2, memoryBytes: 8n << 30n, addresses: ['10.0.0.7'] },
      usage: {
        cpuPercent: 12.5,
        memoryUsedBytes: 2n << 30n,
        diskUsedBytes: 1n << 30n,
        diskTotalBytes: 10n << 30n,
        load1m: 0.25,
        containersRunning: 1,
        containersTotal: 2,
      },
    },
  });
}

/** A node of a Kubernetes cluster. With `agent`, one that has an agent of its own, which leads. */
export function clusterNode(name: string, options: { readonly agent?: boolean } = {}): Node {
  return create(NodeSchema, {
    metadata: { name, bay: 'edge', createTime: timestampFromMs(Date.now() - 3_600_000) },
    spec: {},
    status: {
      phase: NodePhase.READY,
      observeTime: timestampFromMs(Date.now()),
      conditions: [{ type: 'Ready', status: ConditionStatus.TRUE, reason: 'KubeletReady' }],
      info: { addresses: ['10.1.0.9'], os: 'Debian GNU/Linux 12', architecture: 'x64' },
      usage: { cpuPercent: 25, memoryUsedBytes: 1n << 30n },
      cluster: {
        roles: options.agent ? ['control-plane'] : ['worker'],
        capacity: { cpu: '4', memory: '4194304Ki', pods: '110' },
        allocatable: { cpu: '3900m', memory: '4000000Ki', pods: '110' },
        kubeletVersion: 'v1.20.2',
        containerRuntime: 'docker://20.10.24',
      },
      ...(options.agent ? { agentVersion: '0.1.0', leader: true } : { reportedBy: 'master-1' }),
    },
  });
}
