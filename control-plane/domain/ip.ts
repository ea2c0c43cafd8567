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

/**
 * What an address is counted by. Of IPv6 it is the network: a line is given one of 64 bits at least, and with it more addresses than anybody can count. An
 * IPv4 address is itself, also as `::ffff:192.0.2.1`.
 */
export function networkOf(address: string): string {
  const [bare = ''] = address.split('%', 1);
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(bare)?.[1];
  if (mapped !== undefined) return mapped;
  if (ipVersion(bare) !== 6) return bare;
  const [head = '', tail] = bare.split('::');
  const groups = (part: string): string[] => (part === '' ? [] : part.split(':'));
  const [first, last] = [groups(head), groups(tail ?? '')];
  const left = tail === undefined ? [] : new Array<string>(Math.max(0, 8 - first.length - last.length)).fill('0');
  const network = [...first, ...left, ...last].slice(0, 4).map((group) => Number.parseInt(group, 16).toString(16));
  return `${network.join(':')}::/64`;
}
