import { isIP } from 'node:net';

/** Whether what is sent to this URL crosses a network without TLS: what is on this machine does not, and `https:` and `tls:` are TLS. */
export function crossesNetworkInClear(url: string): boolean {
  const parsed = URL.parse(url);
  if (parsed?.protocol === 'https:' || parsed?.protocol === 'tls:') return false;
  const host = parsed?.hostname.replace(/^\[|\]$/g, '') ?? '';
  return !(host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.')));
}
