import test, { type ExecutionContext } from 'ava';
import { type Kubernetes, startKubernetes } from '../../../test/harness/kubernetes/cluster.ts';
import { ownProgram, Program } from '../../../test/harness/program.ts';
import { until } from '../../../test/harness/until.ts';

let cluster: Kubernetes;

test.before(async () => {
  cluster = await startKubernetes();
});
test.after.always(async () => {
  await cluster?.[Symbol.asyncDispose]();
});

/** Half of the default. */
const times = { leaseDurationMs: 5_000, renewDeadlineMs: 3_500, retryPeriodMs: 750 };

/** Where processes stand for election: a lease of the test's own. */
function election(t: ExecutionContext, name: string) {
  const lease = async () =>
    JSON.parse(await cluster.kubectl(['-n', 'kube-system', 'get', 'lease', name, '-o', 'json'])).spec;
  return {
    lease,
    async stand(identity: string) {
      const program = new Program({
        command: ownProgram(
          'test/harness/lease_candidate.ts',
          cluster.kubeconfig,
          name,
          identity,
          JSON.stringify(times),
        ),
        readyLine: /stands/,
      });
      t.teardown(() => program.kill());
      await program.start();
      /** Times at which it began to lead and ended, alternating; still open when it leads. */
      const terms = () =>
        program.output.split('\n').flatMap((line) => {
          const [time, , word] = line.split(' ');
          return word === 'leads' || word === 'follows' ? [Number(time)] : [];
        });
      return { program, terms, leads: () => program.running && terms().length % 2 === 1 };
    },
    /** Whoever leads says so twice more, and others look as often: by then somebody else would have tried. */
    async renewedTwice() {
      for (let times = 0; times < 2; times += 1) {
        const { renewTime } = await lease();
        await until('the lease is renewed', async () => (await lease()).renewTime !== renewTime, { intervalMs: 200 });
      }
    },
  };
}

const untilLeads = (one: { leads(): boolean }) => until('it leads', () => one.leads());

// By itself, and first: it takes the API server away, under all that stand.
test.serial('while the API server is away nobody leads; afterwards one does', async (t) => {
  const { stand } = election(t, 'away');
  const all = await Promise.all([stand('one'), stand('two')]);
  await until('one leads', () => all.some((one) => one.leads()));
  await cluster.killApiServer();
  await until('nobody leads', () => !all.some((one) => one.leads()));
  await cluster.startApiServer();
  await until('one leads again', () => all.some((one) => one.leads()));
  t.is(all.filter((one) => one.leads()).length, 1);
  const terms = all.flatMap((one) => pairs(one.terms())).toSorted(([a], [b]) => a - b);
  for (const [i, [startMs]] of terms.entries()) t.true(startMs >= (terms[i - 1]?.[1] ?? 0), 'two led at the same time');
});

test('when a leader is killed, one of the others leads as soon as its lease has run out', async (t) => {
  const { stand, lease, renewedTwice } = election(t, 'killed');
  const first = await stand('first');
  await untilLeads(first);
  const others = await Promise.all([stand('second'), stand('third')]);
  await renewedTwice();
  t.false(others.some((one) => one.leads()));
  await first.program.kill();
  const { renewTime } = await lease();
  await until('another leads', () => others.some((one) => one.leads()));
  const [ledMs = 0] = others.flatMap((one) => one.terms());
  const afterMs = ledMs - Date.parse(renewTime);
  t.true(afterMs >= times.leaseDurationMs, `${afterMs} ms after the last renewal`);
  t.is(others.filter((one) => one.leads()).length, 1);
  t.like(await lease(), { leaseTransitions: 1, leaseDurationSeconds: 5 });

  // One that ends in order need not be waited for.
  const [leader, other] = others.toSorted((a) => (a.leads() ? -1 : 1));
  t.like(await leader?.program.stop(), { code: 0 });
  await until('the last one leads', () => other?.leads() ?? false);
  await other?.program.stop();
  t.like(await lease(), { holderIdentity: '' });
});

test('a leader that was stopped and comes to itself knows that it has lost its place', async (t) => {
  const { stand, renewedTwice } = election(t, 'asleep');
  const first = await stand('asleep');
  await untilLeads(first);
  const second = await stand('awake');
  await first.program.signal('SIGSTOP');
  await untilLeads(second);
  await first.program.signal('SIGCONT');
  await until('it knows', () => !first.leads());
  await renewedTwice();
  t.true(second.leads());
  t.false(first.leads());
});

/** From when to when it led. */
const pairs = (times: readonly number[]): [number, number][] =>
  times.flatMap((time, i) => (i % 2 === 0 ? [[time, times[i + 1] ?? Number.POSITIVE_INFINITY]] : []));
