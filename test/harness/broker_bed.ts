import type { ExecutionContext } from 'ava';
import type { NatsConnection } from 'nats';
import { pino } from 'pino';
import { type Broker, type BrokerOptions, startBroker } from '../../control-plane/broker/broker.ts';
import type { NodeAddress } from '../../proto/subjects.ts';
import { type AgentKey, connectAgentClient, createAgentKey } from './agent_client.ts';
import { temporaryFolder } from './temporary_folder.ts';

export const log = pino({ level: process.env.BROKER_LOG ?? 'silent' });
export const text = (data: Uint8Array) => new TextDecoder().decode(data);
export const bytes = (value: string) => new TextEncoder().encode(value);

/** Gone with the test. */
export async function dataFolder(t: ExecutionContext): Promise<string> {
  const folder = await temporaryFolder('broker');
  t.teardown(() => folder[Symbol.asyncDispose]());
  return folder.path;
}

/** A broker of the test's own, which ends with it. */
export async function start(t: ExecutionContext, options: Partial<BrokerOptions> = {}): Promise<Broker> {
  const dataDir = options.dataDir ?? (await dataFolder(t));
  const broker = await startBroker({ dataDir, log, ...options });
  t.teardown(() => broker.close());
  return broker;
}

/** Resolves when the broker knows of the subscriptions that were made before. */
export async function subscribed(broker: Broker): Promise<void> {
  await broker.bus.request('nobody.listens', bytes(''), 500).catch(() => undefined);
}

/** One of the agents of a test. */
export interface Agent {
  readonly address: NodeAddress;
  readonly key: AgentKey;
  readonly userJwt: string;
  readonly client: NatsConnection;
}

/** An agent on the bus, with credentials for this address. */
export async function joinBus(
  t: ExecutionContext,
  broker: Broker,
  address: NodeAddress,
  reconnect = false,
): Promise<Agent> {
  const key = createAgentKey();
  const { userJwt } = await broker.access.issue({ ...address, publicKey: key.publicKey, name: address.nodeUid });
  const [url = ''] = broker.access.urls;
  const client = await connectAgentClient({ url, userJwt, seed: key.seed, address, reconnect });
  t.teardown(() => client.close());
  return { address, key, userJwt, client };
}

/** Collects the operations that the broker refuses a client. */
export function refusals(client: NatsConnection): string[] {
  const refused: string[] = [];
  void (async () => {
    for await (const status of client.status()) {
      if ('permissionContext' in status && status.permissionContext) {
        refused.push(`${status.permissionContext.operation} ${status.permissionContext.subject}`);
      }
    }
  })();
  return refused;
}

/** Two nodes of a bay, and one of another. */
export const alice = { bayUid: 'bay-1', nodeUid: 'node-1' };
export const sameBay = { bayUid: 'bay-1', nodeUid: 'node-2' };
export const otherBay = { bayUid: 'bay-2', nodeUid: 'node-3' };
