import { createRequire } from 'node:module';
import { leaveOut } from '../process/leave_out.ts';

/**
 * The client of NATS without what an agent never uses: streams, key-value and object stores, services, benchmarks, and keys computed in
 * JavaScript. All of it would be loaded at once, 2 MB of the agent's 70.
 */
const unused = [
  './bench.js',
  './nkeys.js',
  './service.js',
  './serviceclient.js',
  '../jetstream/internal_mod.js',
  '../jetstream/jsclient.js',
  '../jetstream/jsm.js',
  '../jetstream/kv.js',
];
const require = createRequire(import.meta.url);
leaveOut(require.resolve('nats/lib/nats-base-client/nats.js'), unused);

export const { connect } = require('nats/lib/src/connect.js') as Pick<typeof import('nats'), 'connect'>;
export const { DebugEvents, ErrorCode, Events, NatsError } =
  require('nats/lib/nats-base-client/core.js') as typeof import('nats/lib/nats-base-client/core.js');
