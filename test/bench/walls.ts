import { randomInt } from 'node:crypto';
import { create, toBinary } from '@bufbuild/protobuf';
import { v7 as uuidv7 } from 'uuid';
import { ContainerService, GetContainerRequestSchema } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { startControlPlane } from '../harness/control_plane.ts';
import { container } from './api.ts';
import { percentile, type Row } from './measure.ts';

/** Whether the time of an answer tells an object of another project from none: both are asked for in random order, one call at a time. */
export async function walls(): Promise<Row[]> {
  await using controlPlane = await startControlPlane({ args: ['--log-level', 'warn', '--caller-rate', '100000'] });
  await controlPlane.createBay('bench');
  const api = controlPlane.client(ContainerService);
  const theirs: string[] = [];
  for (let i = 0; i < 500; i += 1) {
    const made = await api.createContainer({ container: container('') });
    theirs.push(made.container?.metadata?.uid ?? '');
  }
  const own = { authorization: `Bearer ${controlPlane.token}`, 'x-baykeeper-project': 'red' };
  const post = (method: string, body: Uint8Array | string, type: string) =>
    fetch(`${controlPlane.url}/baykeeper.v1.${method}`, {
      method: 'POST',
      headers: { ...own, 'content-type': type },
      body: Buffer.from(body),
    });
  const bay = { metadata: { name: 'bench' }, spec: { containerEngine: 'CONTAINER_ENGINE_DOCKER' } };
  await post('BayService/CreateBay', JSON.stringify({ bay }), 'application/json');
  const askMs = async (uid: string): Promise<number> => {
    const request = create(GetContainerRequestSchema, { bay: 'bench', uid });
    const body = toBinary(GetContainerRequestSchema, request);
    const startedMs = performance.now();
    const answer = await post('ContainerService/GetContainer', body, 'application/proto');
    await answer.arrayBuffer();
    if (answer.status !== 404) throw new Error(`GetContainer answered ${answer.status}`);
    return performance.now() - startedMs;
  };
  const timesMs = { theirs: [] as number[], nobodys: [] as number[] };
  for (let i = -4_000; i < 40_000; i += 1) {
    const whose = randomInt(2) === 0 ? 'theirs' : 'nobodys';
    const uid = whose === 'theirs' ? (theirs[randomInt(theirs.length)] ?? '') : uuidv7();
    const took = await askMs(uid);
    // The first ones warm it up.
    if (i >= 0) timesMs[whose].push(took);
  }
  const quartiles = (times: number[]): string => {
    const sorted = times.sort((a, b) => a - b);
    return [0.25, 0.5, 0.75].map((part) => (percentile(sorted, part) * 1000).toFixed(0)).join(', ');
  };
  const target = 'the same';
  return [
    { what: "get another project's object: quartiles, in µs", measured: quartiles(timesMs.theirs), target },
    { what: 'get an object that nobody has', measured: quartiles(timesMs.nobodys), target },
  ];
}
