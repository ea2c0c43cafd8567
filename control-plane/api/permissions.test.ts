import { readFileSync } from 'node:fs';
import { glob } from 'node:fs/promises';
import path from 'node:path';
import type { DescService } from '@bufbuild/protobuf';
import test from 'ava';
import { includesRole, permissionOf, permissions } from './permissions.ts';
import { permissionsPage } from './permissions_page.ts';

const root = path.resolve(import.meta.dirname, '..', '..');

async function servicesOfContract(): Promise<DescService[]> {
  const services: DescService[] = [];
  for await (const file of glob('proto/gen/**/*_pb.js', { cwd: root })) {
    const exports: Record<string, unknown> = await import(path.join(root, file));
    for (const value of Object.values(exports)) {
      if (typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'service') {
        services.push(value as DescService);
      }
    }
  }
  return services;
}

test('every method of the contract has an entry, and no entry is of anything else', async (t) => {
  const services = await servicesOfContract();
  t.true(services.length > 10);
  const methods = services.flatMap((service) => service.methods);
  t.deepEqual(
    methods.filter((method) => !permissionOf(method)).map(({ parent, name }) => `${parent.typeName}/${name}`),
    [],
  );
  const entries = permissions.reduce((sum, entry) => sum + entry.methods.size, 0);
  t.is(entries, methods.length);
});

test('what is not in the table is nobody to call', (t) => {
  const [known] = permissions;
  if (!known) return t.fail();
  t.is(permissionOf({ parent: known.service, name: 'GetNothing' }), undefined);
  t.is(permissionOf({ parent: { ...known.service, typeName: 'baykeeper.v1.NoService' }, name: 'GetBay' }), undefined);
});

test('what needs no identity are services of its own: health, reflection, enrolment', (t) => {
  const open = permissions.filter(({ methods }) => [...methods.values()].includes('open'));
  t.deepEqual(open.map(({ service }) => service.typeName).sort(), [
    'baykeeper.v1.EnrollmentService',
    'grpc.health.v1.Health',
    'grpc.reflection.v1.ServerReflection',
  ]);
  for (const { methods } of open) t.deepEqual(new Set(methods.values()), new Set(['open']));
});

test('a role includes those below it', (t) => {
  t.true(includesRole('admin', 'admin') && includesRole('admin', 'reader') && includesRole('member', 'reader'));
  t.false(includesRole('reader', 'member') || includesRole('member', 'admin') || includesRole('reader', 'admin'));
});

test('the page of the documentation is that of the table', (t) => {
  t.is(
    readFileSync(path.join(root, 'deploy', 'permissions.md'), 'utf8'),
    permissionsPage(),
    'run: node control-plane/api/permissions_page.ts > deploy/permissions.md',
  );
});
