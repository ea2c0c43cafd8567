import { createRequire } from 'node:module';

/**
 * Keeps modules of a library from being loaded, as an agent is to be small: `requests` as the module at `path` would ask for them. Their places are
 * taken by stubs that say so when called. Where a later version of the library has other files, everything is loaded, and works.
 */
export function leaveOut(path: string, requests: readonly string[]): void {
  const require = createRequire(path);
  for (const request of requests) {
    let found: string;
    try {
      found = require.resolve(request);
    } catch {
      continue;
    }
    if (require.cache[found]) continue;
    const Module = require('node:module') as { new (id: string): NodeJS.Module };
    const stub = new Module(found);
    stub.filename = found;
    stub.loaded = true;
    stub.exports = () => {
      throw new Error(`${request} is left out of the agent`);
    };
    require.cache[found] = stub;
  }
}
