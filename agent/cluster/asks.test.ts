import test from 'ava';
import { asksOfObject } from './asks.ts';

const rules = (spec: object, metadata: object = {}) =>
  asksOfObject('Pod', { spec: { containers: [], ...spec }, metadata }).map(({ rule, field }) => `${rule} ${field}`);

test('an ordinary pod asks for its images only', (t) => {
  const spec = {
    containers: [
      {
        name: 'a',
        image: 'app:1',
        securityContext: {
          privileged: false,
          capabilities: { drop: ['ALL'] },
          seccompProfile: { type: 'RuntimeDefault' },
        },
      },
    ],
    initContainers: [{ name: 'b', image: 'init:1' }],
    hostNetwork: false,
    volumes: [
      { name: 'v', emptyDir: {} },
      { name: 'c', persistentVolumeClaim: { claimName: 'c' } },
      { name: 's', csi: { driver: 'secrets-store.csi.k8s.io' }, hostPath: null },
    ],
  };
  t.deepEqual(rules(spec), ['images spec.containers[0].image', 'images spec.initContainers[0].image']);
});

test('what reaches beyond the container is asked for, wherever it stands', (t) => {
  t.deepEqual(rules({ hostNetwork: true, hostPID: true, hostIPC: true }), [
    'hostNetwork spec.hostNetwork',
    'hostPID spec.hostPID',
    'hostIPC spec.hostIPC',
  ]);
  for (const list of ['containers', 'initContainers', 'ephemeralContainers']) {
    const at = `spec.${list}[1].`;
    const securityContext = { privileged: true, procMount: 'Unmasked', capabilities: { add: ['NET_ADMIN'] } };
    const found = rules({ [list]: [{ image: 'a' }, { image: 'b', securityContext }] });
    t.deepEqual(found.slice(1), [
      `images ${at}image`,
      `privileged ${at}securityContext.privileged`,
      `privileged ${at}securityContext.procMount`,
      `capabilities ${at}securityContext.capabilities.add[0]`,
    ]);
  }
  for (const securityContext of [
    { seccompProfile: { type: 'Unconfined' } },
    { appArmorProfile: { type: 'Unconfined' } },
    { windowsOptions: { hostProcess: true } },
    { seLinuxOptions: { type: 'spc_t' } },
    { seLinuxOptions: { user: 'system_u' } },
    { sysctls: [{ name: 'net.ipv4.ip_local_port_range' }, { name: 'kernel.msgmax', value: '1' }] },
    { sysctls: [{ value: '1' }] },
  ]) {
    t.regex(rules({ securityContext }).join(), /^privileged spec\.securityContext\./);
  }
  const annotations = { 'container.apparmor.security.beta.kubernetes.io/web': 'unconfined', note: 'unconfined' };
  t.deepEqual(
    rules({}, { annotations }).map((one) => one.split(' ')[0]),
    ['privileged'],
  );
});

test('a probe or a hook that the kubelet sends elsewhere than to the pod asks for the network of the node', (t) => {
  const handler = (host?: string) => ({ httpGet: { port: 80, ...(host !== undefined && { host }) } });
  const containers = [
    {
      image: 'a',
      livenessProbe: handler('169.254.169.254'),
      readinessProbe: handler(),
      startupProbe: { tcpSocket: { port: 1, host: 'localhost' } },
      lifecycle: { postStart: handler(''), preStop: handler('10.0.0.1') },
    },
  ];
  const at = 'hostNetwork spec.containers[0].';
  t.deepEqual(rules({ containers }).slice(1), [
    `${at}livenessProbe.httpGet.host`,
    `${at}startupProbe.tcpSocket.host`,
    `${at}lifecycle.preStop.httpGet.host`,
  ]);
});

test('a volume of a kind that is run on the node, or is new to us, counts as a mount of it', (t) => {
  const volumes = [
    { name: 'a', gitRepo: { repository: 'x' } },
    { name: 'b', flexVolume: { driver: 'x' } },
    { name: 'c', hostDevice: {} },
    { name: 'd', image: { reference: 'data:1' } },
    { name: 'e', nfs: { server: 'x', path: '/' } },
  ];
  t.deepEqual(rules({ volumes }), [
    'hostMounts spec.volumes[0].gitRepo',
    'hostMounts spec.volumes[1].flexVolume',
    'hostMounts spec.volumes[2].hostDevice',
    'images spec.volumes[3].image.reference',
  ]);
});

test('a folder of the node is for reading only when nobody mounts it to write', (t) => {
  const mounted = (...mounts: object[]) =>
    asksOfObject('Pod', {
      spec: {
        containers: mounts.map((mount) => ({ image: 'a', volumeMounts: [{ name: 'v', ...mount }] })),
        volumes: [{ name: 'v', hostPath: { path: '/etc' } }],
      },
    }).filter(({ rule }) => rule === 'hostMounts');
  t.like(mounted({ readOnly: true })[0], { value: '/etc', writable: false, field: 'spec.volumes[0].hostPath.path' });
  t.like(mounted({ readOnly: true }, {})[0], { writable: true });
  t.like(mounted({ readOnly: 'true' })[0], { writable: true });
  // The kubelet makes what is not there.
  for (const type of ['DirectoryOrCreate', 'FileOrCreate', 7]) {
    const volumes = [{ name: 'v', hostPath: { path: '/etc/new', type } }];
    t.like(asksOfObject('Pod', { spec: { volumes } })[0], { value: '/etc/new', writable: true }, `${type}`);
  }
  const volumes = [{ name: 'v', hostPath: { path: '/etc', type: 'Directory' } }];
  t.like(asksOfObject('Pod', { spec: { volumes } })[0], { writable: false });
});

test("a controller asks for what its template asks for; what has another shape is the cluster's to refuse", (t) => {
  const template = { spec: { hostPID: true, containers: [{ image: 'a' }] } };
  t.deepEqual(
    asksOfObject('ReplicationController', { spec: { template } }).map(({ field }) => field),
    ['spec.template.spec.hostPID', 'spec.template.spec.containers[0].image'],
  );
  t.deepEqual(asksOfObject('Pod', { spec: { containers: 'x', volumes: [7], securityContext: [] } }), []);
  t.deepEqual(asksOfObject('Pod', {}), []);
});

test('a port of the node is asked for where it is named; in the network of the node by every port', (t) => {
  const ports = [{ containerPort: 80 }, { containerPort: 81, hostPort: 8081 }, { containerPort: 82, hostPort: 0 }];
  const found = (spec: object) =>
    asksOfObject('Pod', { spec })
      .filter(({ rule }) => rule === 'hostPorts')
      .map(({ value, field }) => `${value} ${field}`);
  for (const list of ['containers', 'initContainers']) {
    t.deepEqual(found({ [list]: [{ image: 'a', ports }] }), [`8081 spec.${list}[0].ports[1].hostPort`]);
  }
  t.deepEqual(
    found({ hostNetwork: true, containers: [{ image: 'a', ports }] }).map((one) => one.split(' ')[0]),
    ['80', '8081', '82'],
  );
});

test('a service asks for the ports that every node listens on for it', (t) => {
  const found = (spec: object) => asksOfObject('Service', { spec }).map(({ value, field }) => `${value} ${field}`);
  const ports = [{ port: 80 }, { port: 81, nodePort: 30081 }];
  const none: string[] = [];
  t.deepEqual(found({ ports: [{ port: 80 }] }), none);
  t.deepEqual(found({ type: 'ClusterIP', clusterIP: 'None', ports: [{ port: 80 }] }), none);
  t.deepEqual(found({ type: 'NodePort', ports }), ['0 spec.ports[0].nodePort', '30081 spec.ports[1].nodePort']);
  const balancer = { type: 'LoadBalancer', allocateLoadBalancerNodePorts: false };
  t.deepEqual(found({ ...balancer, ports: [{ port: 80 }] }), none);
  t.deepEqual(found({ ...balancer, ports }), ['30081 spec.ports[1].nodePort']);
  t.deepEqual(found({ ...balancer, externalTrafficPolicy: 'Local', ports: [{ port: 80 }] }), [
    '0 spec.healthCheckNodePort',
  ]);
  t.deepEqual(found({ externalIPs: ['10.0.0.1'], ports: [{ port: 80 }] }), ['80 spec.externalIPs']);
});
