import { randomUUID } from 'node:crypto';
import process from 'node:process';
import { toBinary } from '@bufbuild/protobuf';
import { pino } from 'pino';
import { systemClock } from '../../agent/clock.ts';
import { TrustedKeys } from '../../agent/link/trusted_keys.ts';
import { drawNonce, Verifier } from '../../agent/link/verifier.ts';
import { silentLog } from '../../agent/log.ts';
import { KeyFileSigner } from '../../control-plane/broker/message_signer.ts';
import { AssignSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ChainModel, chunksOf } from '../harness/chain_model.ts';
import { temporaryFolder } from '../harness/temporary_folder.ts';
import { ms, percentile, type Row } from './measure.ts';

const rounds = 5_000;

/** What it costs to sign a message to an agent, and to verify it there. */
export async function signatures(): Promise<Row[]> {
  await using folder = await temporaryFolder('bench-signatures');
  const clock = { now: () => Date.now() };
  const options = {
    dataDir: folder.path,
    keyLifeMs: 1e10,
    credentialTtlMs: 1e8,
    clock,
    log: pino({ level: 'silent' }),
  };
  await using signer = await KeyFileSigner.open(options);
  const keys = await TrustedKeys.open(`${folder.path}/trusted_keys.json`);
  await keys.replace(signer.keys());
  const address = { bayUid: randomUUID(), nodeUid: randomUUID() };
  const verifier = new Verifier({ address, keys, clock: systemClock, log: silentLog });
  const nonce = drawNonce();
  const context = { ...address, purpose: 'assign', nonce } as const;

  const chain = new ChainModel();
  chain.put(randomUUID(), 'registry.example.com/shop/frontend:1.2.3');
  const assignment = toBinary(AssignSchema, chain.newest(1n));
  for (let i = 0; i < 2_000; i += 1) chain.put(randomUUID(), 'registry.example.com/shop/frontend:1.2.3');
  // As large as a message may be.
  const [chunk] = chunksOf(1n, { ...chain.snapshot(), assignments: [...chain.assigned.values()] }, 1 << 20);
  if (!chunk) throw new Error('a snapshot has a chunk');
  const snapshot = toBinary(AssignSchema, chunk);

  const row = (what: string, target: string, times: number, work: () => unknown): Row => {
    for (let i = 0; i < times / 5; i += 1) work();
    const each: number[] = [];
    const before = process.cpuUsage();
    for (let i = 0; i < times; i += 1) {
      const begun = performance.now();
      work();
      each.push(performance.now() - begun);
    }
    const { user, system } = process.cpuUsage(before);
    each.sort((a, b) => a - b);
    const cpu = (user + system) / 1000 / times;
    const measured = `median ${ms(percentile(each, 0.5))}, p99 ${ms(percentile(each, 0.99))}; ${cpu.toFixed(3)} ms of a processor`;
    return { what, measured, target };
  };
  const sealed = signer.seal(context, assignment);
  const sealedSnapshot = signer.seal(context, snapshot);
  const open = (data: Uint8Array) => {
    if (!verifier.open('assign', nonce, data)) throw new Error('it is not believed');
  };
  return [
    row(`signing an assignment (${assignment.byteLength} bytes)`, '', rounds, () => signer.seal(context, assignment)),
    row('verifying an assignment, on the agent', '0.2 ms', rounds, () => open(sealed)),
    row(`signing ${snapshot.byteLength >> 10} KiB of a snapshot`, '', 200, () => signer.seal(context, snapshot)),
    row(`verifying ${snapshot.byteLength >> 10} KiB of a snapshot, on the agent`, '', 200, () => open(sealedSnapshot)),
  ];
}
