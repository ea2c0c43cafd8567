import test from 'ava';
import { classifyMessage } from './docker_errors.ts';

const id = 'e8f2717ece62380c28c67174075c180d5be56930fdddee54d0bb0d5fdfabdecf';

test("what a crash left of a container is told from another container's name", (t) => {
  // As engines 20.10 to 28 say it.
  for (const message of [
    'id already in use',
    `task ${id}: already exists`,
    `task ${id} already exists: unknown`,
    `container "${id}": already exists`,
    'container with given ID already exists',
    'OCI runtime create failed: container with id exists: unknown',
    `failed to create task for container: failed to start shim: mkdir /run/containerd/io.containerd.runtime.v2.task/moby/${id}: file exists`,
  ]) {
    t.is(classifyMessage(message), 'leftover', message);
  }
  t.is(classifyMessage(`Conflict. The container name "/web" is already in use by container "${id}".`), 'name-taken');
  t.is(classifyMessage('driver failed programming external connectivity: port is already allocated'), 'port-taken');
});
