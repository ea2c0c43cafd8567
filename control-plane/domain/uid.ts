import { randomFillSync } from 'node:crypto';
import { v7 } from 'uuid';

const uuidBytes = 16;

/** Makes UUIDv7s. Asking the system for randomness costs more than all the rest of one, so it is asked for 256 at a time. */
export function createUidSource(): () => string {
  const pool = new Uint8Array(256 * uuidBytes);
  let used = pool.length;
  return () => {
    if (used === pool.length) {
      randomFillSync(pool);
      used = 0;
    }
    const random = pool.slice(used, used + uuidBytes);
    used += uuidBytes;
    return v7({ random });
  };
}
