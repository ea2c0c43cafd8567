import { create } from '@bufbuild/protobuf';
import { DurationSchema } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import {
  ContainerPhase,
  ContainerSpecSchema,
  type ContainerStatus,
  PullPolicy,
  RestartPolicy,
} from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { startRegistry, type TestRegistry } from '../harness/registry.ts';
import { type Site, startSite } from '../harness/site.ts';
import { until } from '../harness/until.ts';

/* Images from a registry: what is pulled when, and what is said when it cannot be. */

let site: Site;
let registry: TestRegistry;
test.before(async () => {
  [site, registry] = await Promise.all([startSite(), startRegistry()]);
});
test.after.always(async () => {
  await site?.[Symbol.asyncDispose]();
  await registry?.[Symbol.asyncDispose]();
});

const api = () => site.controlPlane.client(ContainerService);
interface Wish {
  readonly image: string;
  readonly pullPolicy?: PullPolicy;
  readonly restartPolicy?: RestartPolicy;
}
const spec = (wish: Wish) =>
  create(ContainerSpecSchema, { ...wish, args: ['sleep', '10000'], stopTimeout: create(DurationSchema, {}) });

async function make(name: string, wish: Wish): Promise<void> {
  await api().createContainer({ container: { metadata: { bay: 'local', name }, spec: spec(wish) } });
}

async function end(...names: string[]): Promise<void> {
  for (const name of names) await api().deleteContainer({ bay: 'local', name });
  for (const name of names) await site.gone(name);
}

const status = async (name: string): Promise<ContainerStatus | undefined> =>
  (await api().getContainer({ bay: 'local', name })).container?.status;
const reason = (name: string, expected: string, timeoutMs?: number) =>
  until(
    `${name} says ${expected}`,
    async () => {
      const now = await status(name);
      if (now?.reason === expected) return now;
      throw new Error(`it says ${now?.reason} ${now?.message}`);
    },
    { timeoutMs },
  );

const pulling = (name: string) =>
  until(`${name} is being pulled`, async () => (await status(name))?.phase === ContainerPhase.PULLING);

/** What was made of busybox, marked so that it is not the same image. */
async function imageWith(mark: string): Promise<string> {
  const { docker } = site.dockerd;
  const made = await docker.createContainer({ Image: site.image, Cmd: ['true'] });
  await made.commit({ repo: 'made', tag: mark, changes: `ENV MARK=${mark}` });
  await made.remove();
  return `made:${mark}`;
}
async function forget(...images: string[]): Promise<void> {
  for (const image of images) await site.dockerd.docker.getImage(image).remove({ force: true });
}
const markOf = async (name: string) =>
  (await site.dockerd.docker.getContainer(name).inspect()).Config.Env.find((one) => one.startsWith('MARK='));

test.serial('an image that is not on the node is pulled: by tag, without one, and by digest', async (t) => {
  const tagged = await registry.push(site.dockerd, await imageWith('a'), 'app:1');
  const untagged = await registry.push(site.dockerd, await imageWith('b'), 'app:latest');
  const { RepoDigests: digests } = await site.dockerd.docker.getImage(tagged).inspect();
  const digest = digests.find((one) => one.startsWith(registry.host)) ?? '';
  await forget(tagged, untagged);
  await make('by-tag', { image: tagged });
  await make('without', { image: untagged.replace(/:latest$/, '') });
  for (const name of ['by-tag', 'without']) await site.inPhase(name, ContainerPhase.RUNNING);
  t.is(await markOf('by-tag'), 'MARK=a');
  t.is(await markOf('without'), 'MARK=b');
  await end('by-tag', 'without');
  await forget(tagged, untagged);
  await make('by-digest', { image: digest });
  await site.inPhase('by-digest', ContainerPhase.RUNNING);
  t.is(await markOf('by-digest'), 'MARK=a');
  await end('by-digest');
});

test.serial('a tag that moved: ALWAYS follows it, IF_NOT_PRESENT keeps what is there', async (t) => {
  const image = await registry.push(site.dockerd, await imageWith('old'), 'moving:1');
  await registry.push(site.dockerd, await imageWith('new'), 'moving:1');
  // On the node the name still stands for the old one.
  await site.dockerd.docker.getImage('made:old').tag({ repo: image.replace(/:1$/, ''), tag: '1' });
  await make('keeps', { image, pullPolicy: PullPolicy.IF_NOT_PRESENT });
  await site.inPhase('keeps', ContainerPhase.RUNNING);
  t.is(await markOf('keeps'), 'MARK=old');
  await make('never', { image, pullPolicy: PullPolicy.NEVER });
  await site.inPhase('never', ContainerPhase.RUNNING);
  t.is(await markOf('never'), 'MARK=old');
  await make('follows', { image, pullPolicy: PullPolicy.ALWAYS });
  await site.inPhase('follows', ContainerPhase.RUNNING);
  t.is(await markOf('follows'), 'MARK=new');
  t.is(await markOf('keeps'), 'MARK=old', 'what runs is not replaced by that');
  await end('keeps', 'never', 'follows');
});

test.serial('what is not there is said by its name, and comes when it is put there', async (t) => {
  await make('later', { image: `${registry.host}/later:1` });
  const said = await reason('later', 'ImageNotFound');
  t.is(said.phase, ContainerPhase.FAILED);
  t.regex(said.message, /later:1/);
  t.truthy(said.retryTime);
  const never = `${registry.host}/app:1`;
  await site.dockerd.docker
    .getImage(never)
    .remove({ force: true })
    .catch(() => undefined);
  await make('never', { image: never, pullPolicy: PullPolicy.NEVER });
  t.regex((await reason('never', 'ImageNotFound')).message, /pull_policy is NEVER/);
  // A spec that can be done is done at once, whatever was waited for.
  const image = await registry.push(site.dockerd, await imageWith('c'), 'there:1');
  await forget(image);
  await api().updateContainer({
    container: { metadata: { bay: 'local', name: 'later' }, spec: spec({ image }) },
    updateMask: { paths: ['spec'] },
  });
  await site.inPhase('later', ContainerPhase.RUNNING);
  t.is((await status('later'))?.reason, '');
  await end('later', 'never');
});

test.serial('a registry that is down is said, what runs goes on, and the pull is tried again', async (t) => {
  const one = await registry.push(site.dockerd, await imageWith('one'), 'up:1');
  const two = await registry.push(site.dockerd, await imageWith('two'), 'up:2');
  await forget(two);
  await make('runs', { image: one });
  await site.inPhase('runs', ContainerPhase.RUNNING);
  const { Id: before } = await site.dockerd.docker.getContainer('runs').inspect();
  await registry.down();
  await api().updateContainer({
    container: {
      metadata: { bay: 'local', name: 'runs' },
      spec: spec({ image: two }),
    },
    updateMask: { paths: ['spec'] },
  });
  const said = await reason('runs', 'PullFailed');
  t.is(said.phase, ContainerPhase.RUNNING, 'the old one runs on');
  t.regex(said.message, /registry/);
  t.is((await site.dockerd.docker.getContainer('runs').inspect()).Id, before);
  await make('always', { image: one, pullPolicy: PullPolicy.ALWAYS });
  t.is((await reason('always', 'PullFailed')).phase, ContainerPhase.FAILED);
  await registry.up();
  await site.inPhase('runs', ContainerPhase.RUNNING, 60_000);
  await until('the new one runs', async () => (await markOf('runs')) === 'MARK=two', { timeoutMs: 60_000 });
  await site.inPhase('always', ContainerPhase.RUNNING, 60_000);
  await end('runs', 'always');
});

test.serial('a pull that is under way is called off when its object is deleted, or wants another image', async (t) => {
  const slow = await registry.push(site.dockerd, await imageWith('slow'), 'slow:1');
  const other = await registry.push(site.dockerd, await imageWith('other'), 'other:1');
  await forget(slow, 'made:slow');
  registry.hold();
  const asked = registry.blobsAsked;
  await make('deleted', { image: slow });
  await pulling('deleted');
  await until('a layer is under way', () => registry.blobsAsked > asked);
  await end('deleted');

  await make('changed', { image: slow });
  await pulling('changed');
  // What pulls does not keep others waiting.
  await make('beside', { image: other });
  await site.inPhase('beside', ContainerPhase.RUNNING);
  await api().updateContainer({
    container: {
      metadata: { bay: 'local', name: 'changed' },
      spec: spec({ image: other, restartPolicy: RestartPolicy.NEVER }),
    },
    updateMask: { paths: ['spec'] },
  });
  await site.inPhase('changed', ContainerPhase.RUNNING);
  t.is(await markOf('changed'), 'MARK=other');

  await make('patient', { image: slow });
  await pulling('patient');
  registry.release();
  await site.inPhase('patient', ContainerPhase.RUNNING);
  t.is(await markOf('patient'), 'MARK=slow');
  await end('changed', 'beside', 'patient');
  t.deepEqual(await site.onEngine(), []);
});
