import test, { type ExecutionContext } from 'ava';
import { FakeClock } from '../../../test/harness/fake_clock.ts';
import { ClusterError } from '../cluster_error.ts';
import type { ApiRequest } from './http.ts';
import { LeaseElection } from './lease.ts';

interface StoredLease {
  readonly metadata: { readonly name: string; readonly resourceVersion: string; readonly labels?: object };
  readonly spec: Record<string, unknown>;
}

/** One Lease, and an API server's checks when it is written. */
class LeaseStore {
  lease: StoredLease | undefined;
  /** Thrown by every request. */
  down: ClusterError | undefined;
  /** What is written is kept, but its writer is not told. */
  deaf = false;
  writes = 0;

  async request<T>({ method, body }: ApiRequest): Promise<T> {
    await undefined;
    if (this.down) throw this.down;
    if (method === 'GET') {
      if (!this.lease) throw new ClusterError('not-found', 'leases "l" not found', { status: 404 });
    } else {
      const sent = structuredClone(body) as StoredLease;
      if (method === 'POST' && this.lease) throw new ClusterError('already-exists', 'exists', { status: 409 });
      if (method === 'PUT' && sent.metadata.resourceVersion !== this.lease?.metadata.resourceVersion) {
        throw new ClusterError('conflict', 'modified', { status: 409 });
      }
      this.writes += 1;
      this.lease = { ...sent, metadata: { ...sent.metadata, resourceVersion: String(this.writes) } };
      if (this.deaf) throw new ClusterError('timeout', 'no answer');
    }
    return structuredClone(this.lease) as T;
  }

  get holder(): unknown {
    return this.lease?.spec.holderIdentity;
  }
}

const away = new ClusterError('unavailable', 'away');

function fixture(t: ExecutionContext) {
  const store = new LeaseStore();
  const clock = new FakeClock();
  const candidate = (identity: string, aside: { skewMs?: number; monotonicMs?: () => number } = {}) => {
    const said: string[] = [];
    const following: boolean[] = [];
    const { skewMs = 0, monotonicMs = () => clock.now() } = aside;
    const election = new LeaseElection(
      {
        client: store,
        clock: { now: () => clock.now() + skewMs, after: clock.after.bind(clock) },
        random: () => 0,
        monotonicMs,
      },
      {
        namespace: 'n',
        name: 'l',
        identity,
        onChange: (leads) => said.push(leads ? 'leads' : 'follows'),
        onFollowing: (follows) => following.push(follows),
        onProblem: (error) => said.push(error ? error.kind : 'well'),
      },
    );
    t.teardown(async () => {
      store.down = undefined;
      const stopped = election.stop();
      await clock.advance(1);
      await stopped;
    });
    return { election, said, following };
  };
  return { store, clock, candidate };
}

test('who comes first leads, and renews what it holds', async (t) => {
  const { store, clock, candidate } = fixture(t);
  const { election, said } = candidate('a');
  await clock.advance(0);
  t.true(election.leads);
  t.is(election.holder, 'a');
  t.false(election.term?.aborted);
  t.like(store.lease, { spec: { holderIdentity: 'a', leaseDurationSeconds: 10, leaseTransitions: 0 } });
  const { acquireTime } = store.lease?.spec ?? {};
  await clock.advance(30_000);
  t.is(store.writes, 21);
  t.is(store.lease?.spec.acquireTime, acquireTime);
  t.is(store.lease?.spec.renewTime, new Date(clock.now()).toISOString().replace('Z', '000Z'));
  t.deepEqual(said, ['leads']);
});

test('a leader that dies is followed when its lease has run out, whatever the clocks say', async (t) => {
  for (const skewMs of [-3_600_000, 0, 3_600_000]) {
    const { store, clock, candidate } = fixture(t);
    store.lease = {
      metadata: { name: 'l', resourceVersion: '0', labels: { kept: 'yes' } },
      spec: {
        holderIdentity: 'dead',
        leaseDurationSeconds: 10,
        renewTime: new Date(clock.now()).toISOString(),
        leaseTransitions: 4,
      },
    };
    const { election, said } = candidate('b', { skewMs });
    await clock.advance(9_900);
    t.false(election.leads);
    t.is(election.holder, 'dead');
    await clock.advance(2_000);
    t.true(election.leads);
    t.like(store.lease, { metadata: { labels: { kept: 'yes' } }, spec: { holderIdentity: 'b', leaseTransitions: 5 } });
    t.deepEqual(said, ['leads']);
  }
});

test('as long as the leader renews nobody takes its place', async (t) => {
  const { store, clock, candidate } = fixture(t);
  const first = candidate('a');
  await clock.advance(10);
  const second = candidate('b');
  await clock.advance(60_000);
  t.true(first.election.leads);
  t.false(second.election.leads);
  t.is(second.election.holder, 'a');
  t.deepEqual(second.said, []);
  t.is(store.holder, 'a');
});

test('a leader that stops lets go, and another leads at its next try', async (t) => {
  const { store, clock, candidate } = fixture(t);
  const first = candidate('a');
  await clock.advance(10);
  const second = candidate('b');
  await clock.advance(5_000);
  const { term } = first.election;
  await first.election.stop();
  t.true(term?.aborted);
  t.false(first.election.leads);
  t.is(store.holder, '');
  await clock.advance(1_500);
  t.true(second.election.leads);
  t.deepEqual(first.said, ['leads', 'follows']);
});

test('who does not lead stops without a trace', async (t) => {
  const { store, clock, candidate } = fixture(t);
  const first = candidate('a');
  await clock.advance(10);
  const second = candidate('b');
  await clock.advance(10);
  const { lease } = store;
  await second.election.stop();
  t.is(store.lease, lease);
  t.true(first.election.leads);
});

test('a leader that cannot renew steps down before another can lead', async (t) => {
  const { store, clock, candidate } = fixture(t);
  const { election, said } = candidate('a');
  await clock.advance(3_000);
  const { term } = election;
  store.down = away;
  await clock.advance(6_900);
  t.true(election.leads);
  await clock.advance(200);
  t.false(election.leads);
  t.true(term?.aborted);
  t.is(election.term, undefined);
  t.deepEqual(said, ['leads', 'unavailable', 'follows']);
  store.down = undefined;
  await clock.advance(2_000);
  t.true(election.leads);
  t.deepEqual(said.slice(3), ['leads', 'well']);
});

test('a term counts from before the renewal was sent', async (t) => {
  const { store, clock, candidate } = fixture(t);
  const { election } = candidate('a');
  await clock.advance(10);
  const request = store.request.bind(store);
  // The next one is under way for three seconds.
  store.request = async (options) => {
    const answer = await request(options);
    await new Promise<void>((resolve) => clock.after(3_000, resolve));
    store.down = away;
    return answer as never;
  };
  await clock.advance(1_500 + 6_900);
  t.true(election.leads);
  await clock.advance(200);
  t.false(election.leads);
});

test('a leader whose place was taken steps down when it sees that', async (t) => {
  const { store, clock, candidate } = fixture(t);
  const { election, said } = candidate('a');
  await clock.advance(10);
  store.writes += 1;
  store.lease = {
    metadata: { name: 'l', resourceVersion: '99' },
    spec: { holderIdentity: 'thief', leaseDurationSeconds: 10 },
  };
  await clock.advance(1_500);
  t.false(election.leads);
  t.is(election.holder, 'thief');
  t.is(store.holder, 'thief');
  t.deepEqual(said, ['leads', 'follows']);
});

test('a renewal of which nothing was heard costs a leader nothing', async (t) => {
  const { store, clock, candidate } = fixture(t);
  const { election, said } = candidate('a');
  await clock.advance(10);
  store.deaf = true;
  await clock.advance(1_500);
  store.deaf = false;
  await clock.advance(30_000);
  t.true(election.leads);
  t.deepEqual(said, ['leads', 'timeout', 'well']);
});

test('a lease that is removed is made again', async (t) => {
  const { store, clock, candidate } = fixture(t);
  const { election } = candidate('a');
  await clock.advance(10);
  store.lease = undefined;
  await clock.advance(3_100);
  t.true(election.leads);
  t.is(store.holder, 'a');
});

test('a machine that slept, or a clock that was set forward, ends a term at once', async (t) => {
  const { clock, candidate } = fixture(t);
  // Of Linux's two clocks the one that never goes back stands still while the machine sleeps.
  const { election } = candidate('a', { monotonicMs: () => 0 });
  await clock.advance(10);
  t.true(election.leads);
  let nowMs = clock.now();
  clock.now = () => nowMs;
  nowMs += 8_000;
  t.false(election.leads);
  t.is(election.term, undefined);
});

test('a lease that claims to last for ever is not believed', async (t) => {
  const { store, clock, candidate } = fixture(t);
  store.lease = {
    metadata: { name: 'l', resourceVersion: '0' },
    spec: { holderIdentity: 'x', leaseDurationSeconds: 2 ** 31 - 1 },
  };
  const { election } = candidate('a');
  await clock.advance(62_000);
  t.true(election.leads);
});

test('that another leads is known once it was seen to renew, and for no longer than it does', async (t) => {
  const { store, clock, candidate } = fixture(t);
  const first = candidate('a');
  await clock.advance(10);
  const second = candidate('b');
  await clock.advance(100);
  t.is(second.election.holder, 'a');
  t.deepEqual(second.following, [], 'what holds it may be dead');
  await clock.advance(5_000);
  t.deepEqual(second.following, [true]);

  // Who cannot ask knows nothing after a while.
  store.down = away;
  await clock.advance(30_000);
  t.deepEqual(second.following, [true, false]);
  t.deepEqual([first.election.leads, second.election.leads], [false, false]);
  store.down = undefined;
  await clock.advance(20_000);
  const [leader, other] = first.election.leads ? [first, second] : [second, first];
  t.true(leader.election.leads);
  t.false(leader.following.at(-1) ?? false);
  t.true(other.following.at(-1));
  await leader.election.stop();
  await clock.advance(1_500);
  t.true(other.election.leads);
  t.false(other.following.at(-1));
});

test('a lease whose holder is dead, or that somebody has put back, is no news of another leader', async (t) => {
  const { store, clock, candidate } = fixture(t);
  store.lease = {
    metadata: { name: 'l', resourceVersion: '0' },
    spec: { holderIdentity: 'x', leaseDurationSeconds: 10, renewTime: '2026-01-01T00:00:00.000000Z' },
  };
  const { election, following } = candidate('a');
  await clock.advance(3_000);
  // Not a renewal.
  store.lease = {
    metadata: { name: 'l', resourceVersion: '1' },
    spec: { ...store.lease.spec, leaseTransitions: 7 },
  };
  await clock.advance(3_000);
  // Nor this: another holder.
  store.lease = {
    metadata: { name: 'l', resourceVersion: '2' },
    spec: { holderIdentity: 'y', leaseDurationSeconds: 10, renewTime: '2025-01-01T00:00:00.000000Z' },
  };
  await clock.advance(20_000);
  t.true(election.leads);
  t.deepEqual(following, []);
});

test('periods that cannot be safe are refused', (t) => {
  const { store, clock } = fixture(t);
  const options = { namespace: 'n', name: 'l', identity: 'a', onChange: () => undefined };
  const make = (more: object) => new LeaseElection({ client: store, clock }, { ...options, ...more });
  t.throws(() => make({ renewDeadlineMs: 10_000 }), { instanceOf: RangeError });
  t.throws(() => make({ retryPeriodMs: 8_000 }), { instanceOf: RangeError });
});
