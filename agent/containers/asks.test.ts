import { create } from '@bufbuild/protobuf';
import test from 'ava';
import { ContainerSpecSchema, MountType } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { asksOfGrants, asksOfSpec } from './asks.ts';

test('a container asks for its image, its ports and folders of the node, and its capabilities', (t) => {
  const spec = create(ContainerSpecSchema, {
    image: 'app:1',
    capAdd: ['NET_ADMIN'],
    capDrop: ['ALL'],
    ports: [{ containerPort: 80, hostPort: 8080 }, { containerPort: 81 }],
    mounts: [
      { type: MountType.VOLUME, source: 'data', target: '/data' },
      { type: MountType.TMPFS, target: '/tmp' },
      { type: MountType.BIND, source: '/srv', target: '/srv', readOnly: true },
      { type: MountType.VOLUME, source: '/etc', target: '/etc' },
      { type: 99 as MountType, source: 'new', target: '/new' },
    ],
  });
  t.deepEqual(asksOfSpec(spec), [
    { rule: 'images', value: 'app:1', field: 'spec.image' },
    { rule: 'hostPorts', value: '8080', field: 'spec.ports[0].host_port' },
    { rule: 'hostPorts', value: '0', field: 'spec.ports[1].host_port' },
    { rule: 'hostMounts', value: '/srv', writable: false, field: 'spec.mounts[2].source' },
    { rule: 'hostMounts', value: '/etc', writable: true, field: 'spec.mounts[3].source' },
    { rule: 'hostMounts', value: 'new', writable: true, field: 'spec.mounts[4].source' },
    { rule: 'capabilities', value: 'NET_ADMIN', field: 'spec.cap_add[0]' },
  ]);
});

test('so it is with what the engine says that it has', (t) => {
  const grants = {
    image: 'app:1',
    hostPorts: [8080, 0],
    hostMounts: [{ path: '/srv', writable: true }],
    capabilities: ['CAP_CHOWN'],
  };
  t.deepEqual(
    asksOfGrants(grants).map(({ rule, value }) => `${rule} ${value}`),
    ['images app:1', 'hostPorts 8080', 'hostPorts 0', 'hostMounts /srv', 'capabilities CAP_CHOWN'],
  );
});
