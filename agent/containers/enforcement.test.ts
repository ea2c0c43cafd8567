import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import test from 'ava';
import { ContainerSpecSchema, MountType } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { readPolicy } from '../policy.ts';
import { judgeObject } from './enforcement.ts';

let dir: string;
test.before(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), 'baykeeper-mounts-')));
  await mkdir(join(dir, 'data/inner'), { recursive: true });
  await mkdir(join(dir, 'secret'));
  await writeFile(join(dir, 'data/file'), '');
  await symlink('../secret', join(dir, 'data/out'));
  await symlink('inner', join(dir, 'data/in'));
  await symlink('around', join(dir, 'data/around'));
  await symlink('data', join(dir, 'alias'));
});
test.after.always(() => rm(dir, { recursive: true, force: true }));

/** Why a mount is refused. */
async function refused(allowed: readonly unknown[], source: string, readOnly = false): Promise<string> {
  const policy = readPolicy({ default: 'allow', hostMounts: allowed }, 'agent.yaml');
  const spec = create(ContainerSpecSchema, {
    image: 'app:1',
    mounts: [{ type: MountType.BIND, source, target: '/x', readOnly }],
  });
  const wanted = { kind: 'present', uid: 'u', namespace: '', name: 'n', generation: 1n, spec, hash: '' } as const;
  const { violations, verdict } = await judgeObject(policy, wanted, { owned: [], occupant: undefined });
  if (verdict.wanted !== violations.length > 0) throw new Error('verdict and violations differ');
  return violations.map(({ field, message }) => `${field} ${message}`).join();
}

test('a link is followed before its path is judged', async (t) => {
  const data = join(dir, 'data');
  for (const source of ['', '/', '/inner', '/in', '/./in/'])
    t.is(await refused([data], `${data}${source}`), '', source);
  t.regex(await refused([data], join(data, 'out')), /^spec\.mounts\[0\]\.source the mount of .*\/secret of the node/);
  t.regex(await refused([data], `${data}/inner/../in`), /no absolute path without \.\./);
  t.regex(await refused([join(data, 'inner')], join(data, 'in')), /the mount of .*\/in of the node; allowed/);
  t.is(await refused([join(data, 'in')], join(data, 'in')), '');
});

test('a folder that is allowed may be a link itself', async (t) => {
  const alias = join(dir, 'alias');
  t.is(await refused([alias], join(alias, 'inner')), '');
  t.regex(await refused([alias], join(alias, 'out')), /secret of the node; allowed/);
  t.regex(await refused([{ path: alias, readOnly: true }], join(alias, 'in')), /for reading only/);
  t.is(await refused([{ path: alias, readOnly: true }], join(alias, 'in'), true), '');
});

test('where all is allowed for reading only, a link is followed for all that', async (t) => {
  const data = join(dir, 'data');
  const allowed = [{ path: '/', readOnly: true }, data];
  t.is(await refused(allowed, join(data, 'in')), '');
  t.is(await refused(allowed, join(data, 'out'), true), '');
  t.regex(await refused(allowed, join(data, 'out')), /secret of the node, which may be mounted for reading only/);
});

test('a link is not its owner’s where a container may have made it', async (t) => {
  const data = join(dir, 'data');
  const out = { path: join(data, 'out'), readOnly: true };
  t.is(await refused([out], out.path, true), '');
  t.is(await refused([{ path: data, readOnly: true }, out], out.path, true), '');
  t.regex(await refused([data, out], out.path, true), /secret of the node; allowed/);
  t.is(await refused([data, join(data, 'inner')], join(data, 'in')), '');
});

test('a path that the agent cannot follow is refused, as the engine may see something there', async (t) => {
  const data = join(dir, 'data');
  t.regex(await refused([data], join(data, 'missing')), /the agent cannot see where its links lead \(ENOENT\)$/);
  t.regex(await refused([data], join(data, 'file/x')), /\(ENOTDIR\)$/);
  t.regex(await refused([data], join(data, 'around')), /\(ELOOP\)$/);
  t.is(await refused(['/'], join(data, 'missing')), '');
  t.is(await refused(['/no/such/folder', data], data), '');
});
