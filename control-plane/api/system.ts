import type { ServiceImpl } from '@connectrpc/connect';
import type { SystemService } from '../../proto/gen/baykeeper/v1/system_service_pb.js';
import type { Bus } from '../broker/port.ts';
import type { Store } from '../store/port.ts';
import { principalOf } from './call.ts';

/** What there is to say about the control plane. */
export interface SystemOptions {
  readonly store: Pick<Store, 'revision'>;
  readonly bus: Pick<Bus, 'connected'>;
  readonly version: string;
  /** Name of the store: `sqlite`. */
  readonly storeName: string;
}

/** About the control plane and the caller. */
export function systemMethods({ store, bus, version, storeName }: SystemOptions): ServiceImpl<typeof SystemService> {
  return {
    getVersion: () => ({ version, revision: BigInt(store.revision), store: storeName, brokerConnected: bus.connected }),
    whoAmI(_request, context) {
      const { subject, project, role } = principalOf(context);
      return { subject, project, role };
    },
  };
}
