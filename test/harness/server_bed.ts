import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { createClient } from '@connectrpc/connect';
import type { ExecutionContext } from 'ava';
import { BayService } from '../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { type ApiFixtureOptions, startApi } from './api_fixture.ts';

const run = promisify(execFile);

/** The API, with bay `local`. */
export async function fixture(t: ExecutionContext, options: ApiFixtureOptions = {}) {
  const api = await startApi(options);
  t.teardown(() => api[Symbol.asyncDispose]());
  await createClient(BayService, api.transport()).createBay({ bay: { metadata: { name: 'local' } } });
  return api;
}
/** For a call that makes one. */
export const container = (name: string) => ({ metadata: { bay: 'local', name }, spec: { image: 'busybox' } });

/** Asks with curl: status and body. */
export async function curl(...args: string[]): Promise<{ status: number; body: string; headers: string }> {
  const { stdout } = await run('curl', ['-s', '-i', '-w', '\n%{http_code}', ...args], { maxBuffer: 64 * 1024 * 1024 });
  const status = Number(stdout.slice(stdout.lastIndexOf('\n') + 1));
  const text = stdout.slice(0, stdout.lastIndexOf('\n'));
  const split = text.lastIndexOf('\r\n\r\n');
  return { status, headers: text.slice(0, split), body: text.slice(split + 4) };
}
/** Arguments of curl for a call with JSON. */
export const json = (token = 'red-token') => ['-H', 'content-type: application/json', '-H', `x-auth-token: ${token}`];
