import type { Access, Bus } from '../broker/port.ts';
import type { Inventory } from './inventory.ts';
import type { LivenessTracker } from './liveness.ts';

/** Options of {@link Connections}. */
export interface ConnectionsOptions {
  readonly bus: Bus;
  readonly access: Access;
  readonly inventory: Inventory;
  readonly liveness: LivenessTracker;
  /** The last connection of a node's agent is closed. */
  readonly onGone: (nodeUid: string) => void;
}

/** Keeps what the broker says of the agents' connections. */
export class Connections {
  readonly #options: ConnectionsOptions;
  readonly #live = new Map<string, Set<string>>();

  constructor(options: ConnectionsOptions) {
    this.#options = options;
  }

  start(): () => void {
    const { access, bus, inventory, liveness, onGone } = this.#options;
    const ends = [
      access.onConnection(({ publicKey, connected, connectionId }) => {
        const nodeUid = inventory.nodeOfKey(publicKey);
        if (!nodeUid) return;
        const live = this.#live.get(nodeUid) ?? new Set();
        if (connected) {
          this.#live.set(nodeUid, live.add(connectionId));
          liveness.connected(nodeUid);
        } else {
          // One that we never saw come, after a restart of ours, counts as well.
          live.delete(connectionId);
          if (live.size > 0) return;
          this.#live.delete(nodeUid);
          liveness.disconnected(nodeUid);
          onGone(nodeUid);
        }
      }),
      // While we could not hear the broker, connections came and went unseen.
      bus.onConnected(() => this.#live.clear()),
    ];
    return () => {
      for (const end of ends) end();
    };
  }

  /** Undefined when nothing is known, as after a restart. */
  count(nodeUid: string): number | undefined {
    return this.#live.get(nodeUid)?.size;
  }
}
