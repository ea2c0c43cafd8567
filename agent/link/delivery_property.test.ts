import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { type Assign, AssignmentOp } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { chunksOf } from '../../test/harness/chain_model.ts';
import { Bed, signed } from '../../test/harness/delivery_bed.ts';

/** What a wire may do to a message. */
type Fate = 'deliver' | 'lose' | 'twice' | 'delay' | 'corrupt' | 'replay';
type Step =
  | { readonly do: 'put' | 'delete' | 'forget'; readonly object: number; readonly fate: Fate; readonly leap: number }
  | { readonly do: 'snapshot'; readonly fate: Fate }
  | { readonly do: 'wire'; readonly pick: number }
  | { readonly do: 'wait'; readonly ms: number }
  | { readonly do: 'restart' }
  | { readonly do: 'away'; readonly up: boolean };

const fate = fc.constantFrom<Fate>('deliver', 'deliver', 'deliver', 'lose', 'twice', 'delay', 'corrupt', 'replay');
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom('put' as const, 'put' as const, 'delete' as const, 'forget' as const),
      object: fc.nat(9),
      fate,
      leap: fc.integer({ min: 1, max: 3 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('snapshot' as const), fate }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('wire' as const), pick: fc.nat(20) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.constantFrom(100, 1_000, 40_000) }) },
  { weight: 1, arbitrary: fc.constant({ do: 'restart' as const }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('away' as const), up: fc.boolean() }) },
);

test('whatever the wire does: it converges, removes only what was to be removed, and brings nothing back', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
      const folder = await mkdtemp(join(tmpdir(), 'agent-delivery-'));
      const b = new Bed(join(folder, 'state.bin'));
      try {
        await b.start();
        const removable = new Set<string>();
        const forgotten = new Set<string>();
        const past: Uint8Array[] = [];
        const uids = Array.from({ length: 10 }, (_, i) => `o-${i}`);
        let renamed = 0;
        const check = () => {
          for (const { uid } of b.workloads.removals) if (!removable.has(uid)) throw new Error(`${uid} was removed`);
          for (const uid of b.workloads.removals.map((r) => r.uid)) {
            if (b.workloads.running.has(uid)) throw new Error(`${uid} came back`);
          }
        };
        const send = (assigns: readonly Assign[], how: Fate) => {
          for (const assign of assigns) {
            const data = signed(assign);
            past.push(data);
            if (how === 'lose') continue;
            if (how === 'delay') {
              b.wire.push(data);
              continue;
            }
            if (how === 'corrupt') {
              const damaged = Uint8Array.from(data);
              damaged[damaged.length >> 1] = (damaged[damaged.length >> 1] ?? 0) ^ 0x10;
              b.delivery.receive(damaged);
              continue;
            }
            b.delivery.receive(data);
            if (how === 'twice') b.delivery.receive(data);
            if (how === 'replay') for (const old of past.slice(-20)) b.delivery.receive(old);
          }
        };
        for (const s of steps) {
          if (s.do === 'put' || s.do === 'delete' || s.do === 'forget') {
            const uid = uids[s.object] ?? '';
            const there = b.chain.assigned.get(uid);
            if (s.do === 'put' && there?.op === AssignmentOp.DELETE) continue;
            if (s.do !== 'put' && !there) continue;
            if (s.do !== 'put') removable.add(uid);
            if (s.do === 'put') b.chain.put(uid, 'busybox', undefined, BigInt(s.leap));
            else if (s.do === 'delete') b.chain.delete(uid, BigInt(s.leap));
            else {
              b.chain.forget(uid, BigInt(s.leap));
              forgotten.add(uid);
              // Uids are never used again.
              renamed += 1;
              uids[s.object] = `o-${s.object}-${renamed}`;
            }
            send([b.chain.newest(b.epoch)], s.fate);
          } else if (s.do === 'snapshot') send(chunksOf(b.epoch, b.chain.snapshot(), b.chunkBytes), s.fate);
          else if (s.do === 'wire') {
            const [data] = b.wire.splice(s.pick % Math.max(1, b.wire.length), 1);
            if (data) b.delivery.receive(data);
          } else if (s.do === 'wait') await b.clock.advance(s.ms);
          else if (s.do === 'away') b.up = s.up;
          else await b.restart();
          await b.settle();
          check();
        }
        // The weather clears.
        b.up = true;
        for (let i = 0; i < 200 && !b.converged; i += 1) {
          await b.arriveAll();
          await b.clock.advance(2_000);
          check();
        }
        if (!b.converged) throw new Error(`at ${b.store.revision}, not ${b.chain.revision}; ${b.delivery.sync}`);
        const wanted = [...b.chain.assigned.values()].filter((a) => a.op === AssignmentOp.PUT).map((a) => a.uid);
        t.deepEqual([...b.workloads.running.keys()].sort(), wanted.sort());
      } finally {
        b.delivery?.close();
        await b.store?.close();
        await rm(folder, { recursive: true, force: true });
      }
    }),
    { numRuns: 300 },
  );
});
