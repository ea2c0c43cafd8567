import { create } from '@bufbuild/protobuf';
import { type Timestamp, timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type Delivery, DeliverySchema } from '../proto/gen/baykeeper/v1/delivery_pb.js';

/** What the agent says in every status: how far an object's newest word has come. Times are in milliseconds since 1970. */
export interface DeliveryTimes {
  readonly receivedGeneration: bigint;
  readonly appliedGeneration: bigint;
  readonly observedGeneration: bigint;
  readonly publishMs: number;
  readonly receiveMs: number;
  readonly applyMs: number | undefined;
  readonly observeMs: number;
}

/** Why an object is not as asked. */
export interface Problem {
  /** One word in CamelCase, for programs. */
  readonly reason: string;
  /** In words that a user can act on. */
  readonly message: string;
  /** When it is tried again. */
  readonly retryTimeMs: number | undefined;
}

/** An engine's times may have a fraction of a millisecond, for their order; a Timestamp made from milliseconds takes none. */
export const timestampAt = (ms: number): Timestamp => timestampFromMs(Math.floor(ms));

export function deliveryOf(times: DeliveryTimes): Delivery {
  return create(DeliverySchema, {
    receivedGeneration: times.receivedGeneration,
    appliedGeneration: times.appliedGeneration,
    observedGeneration: times.observedGeneration,
    publishTime: timestampAt(times.publishMs),
    receiveTime: timestampAt(times.receiveMs),
    ...(times.applyMs !== undefined && { applyTime: timestampAt(times.applyMs) }),
    observeTime: timestampAt(times.observeMs),
  });
}

/** A copy of a status's delivery that says the same whenever it is said, to compare with. */
export function timeless(delivery: Delivery | undefined): Delivery | undefined {
  if (!delivery) return undefined;
  const { receivedGeneration, appliedGeneration, observedGeneration } = delivery;
  return create(DeliverySchema, { receivedGeneration, appliedGeneration, observedGeneration });
}
