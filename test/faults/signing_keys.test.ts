import { readFile } from 'node:fs/promises';
import path from 'node:path';
import test from 'ava';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import { ContainerService } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { type Site, startSite } from '../harness/site.ts';
import { until } from '../harness/until.ts';

/* The keys that messages are signed with follow one another: under an agent that is there, and behind the back of one that is not. */

let site: Site;
test.before(async () => {
  // A key signs for eight seconds, and is announced for four before.
  const args = ['--heartbeat', '1s', '--credential-ttl', '2s', '--signing-key-life', '8s'];
  site = await startSite({ args });
});
test.after.always(async () => site?.[Symbol.asyncDispose]());

const idsIn = async (file: string): Promise<string[]> =>
  (JSON.parse(await readFile(file, 'utf8')) as { id: string }[]).map(({ id }) => id);
const signing = () => idsIn(path.join(site.controlPlane.dataDir, 'signing', 'keys.json'));
const believed = () => idsIn(path.join(site.agent.dataDir, 'trusted_keys.json'));

async function runs(name: string): Promise<void> {
  await site.controlPlane.client(ContainerService).createContainer({
    container: {
      metadata: { bay: 'local', name },
      spec: { image: site.image, args: ['sleep', '10000'], stopTimeout: { seconds: 0n } },
    },
  });
  await site.inPhase(name, ContainerPhase.RUNNING);
}
const refused = async () =>
  /^baykeeper_agent_refused_messages_total (\d+)$/m.exec(
    await (await fetch(`${site.controlPlane.url}/metrics`)).text(),
  )?.[1];

test.serial('an agent that is there believes one key after the other, and refuses nothing', async (t) => {
  const [first] = await signing();
  await runs('before');
  await until('the first key is gone', async () => !(await signing()).includes(String(first)), { timeoutMs: 40_000 });
  await runs('after');
  t.is(await refused(), '0');
});

test.serial('an agent that was away during a whole change of keys asks the API, and goes on', async (t) => {
  const before = await believed();
  await site.agent.stop();
  await until('no key is left that it knows', async () => !(await signing()).some((id) => before.includes(id)), {
    timeoutMs: 60_000,
  });
  await site.agent.start();
  await site.agent.ready();
  await runs('again');
  t.true((await signing()).some((id) => !before.includes(id)));
  t.deepEqual(await site.onEngine(), ['after', 'again', 'before']);
});
