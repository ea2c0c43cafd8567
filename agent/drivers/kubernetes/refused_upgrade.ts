import type { IncomingMessage } from 'node:http';
import type { ClusterError } from '../cluster_error.ts';
import { statusError } from './errors.ts';

const maxErrorChars = 64 * 1024;

/** Why another protocol was not to be had: the answer that came instead, as the cluster says it. */
export async function refusedUpgrade(response: IncomingMessage): Promise<ClusterError> {
  let body = '';
  for await (const piece of response.setEncoding('utf8') as AsyncIterable<string>) {
    body += piece;
    if (body.length > maxErrorChars) break;
  }
  const { statusCode = 0, headers } = response;
  // A success that changes no protocol is none.
  return statusError({ status: statusCode < 300 ? 400 : statusCode, headers, body, plural: 'pods' });
}
