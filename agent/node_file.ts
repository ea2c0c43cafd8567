import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** In the data folder: which node of which bay the agent is of, as JSON. */
export const nodeFile = 'node.json';

/** Whether a data folder is of a node of a Kubernetes bay, as far as is known. Loads nothing, unlike reading the whole identity. */
export function isOfCluster(dataDir: string): boolean {
  try {
    const { containerEngine } = JSON.parse(readFileSync(join(dataDir, nodeFile), 'utf8')) as {
      containerEngine?: unknown;
    };
    return containerEngine === 'kubernetes';
  } catch {
    // Whoever opens the identity says what is wrong with it.
    return false;
  }
}
