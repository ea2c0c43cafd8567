/** 4 or 6; undefined when it is no IP address. Pure, unlike what `node:net` has for it. */
export function ipVersion(address: string): 4 | 6 | undefined {
  if (/^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!$)|$)){4}$/.test(address)) return 4;
  return /^[0-9A-Fa-f:.]+$/.test(address) && address.includes(':') && URL.canParse(`http://[${address}]/`)
    ? 6
    : undefined;
}

/** Whether it is a range of addresses, as 10.0.0.0/24. */
export function isCidr(range: string): boolean {
  const match = /^([^/]+)\/(\d{1,3})$/.exec(range);
  const version = ipVersion(match?.[1] ?? '');
  return version !== undefined && Number(match?.[2]) <= (version === 4 ? 32 : 128);
}

/** Whether an address or `localhost` leads to this machine alone. */
export function isLoopback(host: string): boolean {
  const version = ipVersion(host);
  if (version === 6) return new URL(`http://[${host}]/`).hostname === '[::1]';
  return host === 'localhost' || (version === 4 && host.startsWith('127.'));
}

/** Whether it stands for every address of this machine. */
export const isWildcard = (host: string): boolean =>
  host === '' || host === '0.0.0.0' || (ipVersion(host) === 6 && new URL(`http://[${host}]/`).hostname === '[::]');
