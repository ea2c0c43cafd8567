import { readFile } from 'node:fs/promises';
import { get } from 'node:https';
import { certificatesIn, fingerprintOf, parseFingerprint } from '../proto/fingerprint.ts';
import { CliError, exitStatus, UsageError } from './errors.ts';

/** How bayctl tells a control plane from others: by its CA, in a file, or learnt once by a fingerprint. */

const mostBytes = 256 * 1024;
const fetchTimeoutMs = 20_000;

/** Flags of the commands that make or change a context. */
export interface TrustFlags {
  readonly caFingerprint?: string;
  readonly caFile?: string;
}

/**
 * The CA that the flags name, as PEM; undefined when they name none. By a fingerprint, it is read from the server itself, over a connection that
 * nobody vouches for: only one certificate in the world has that fingerprint.
 */
export async function caOfFlags(server: string, { caFingerprint, caFile }: TrustFlags): Promise<string | undefined> {
  if (caFingerprint !== undefined && caFile !== undefined)
    throw new UsageError('give --ca-fingerprint or --ca-file, not both');
  if (caFile !== undefined) return readCa(caFile);
  if (caFingerprint === undefined) return undefined;
  const wanted = parseFingerprint(caFingerprint);
  if (!wanted) throw new UsageError('--ca-fingerprint: expected sha256: and 64 hexadecimal digits');
  if (!server.startsWith('https:')) throw new UsageError(`--ca-fingerprint goes with https://, and not with ${server}`);
  const found = parse(await fetchCa(server), `what ${server} shows as its CA`);
  const ca = found.find((one) => one.ca && fingerprintOf(one) === wanted);
  if (ca) return String(ca);
  const shown = found.map(fingerprintOf).join(', ') || 'none';
  throw new CliError(
    `the CA of ${server} is not the one with fingerprint ${wanted}, but: ${shown}. Somebody may be in between: ask whoever runs it for the fingerprint of now (\`control-plane ca show\`)`,
    exitStatus.unavailable,
  );
}

/** The certificates of a file, as PEM. */
export async function readCa(path: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CliError(`cannot read the CA from ${path}: ${reason}`, undefined, { cause });
  }
  return parse(text, path).join('');
}

function parse(text: string, what: string): ReturnType<typeof certificatesIn> {
  let found: ReturnType<typeof certificatesIn> = [];
  try {
    found = certificatesIn(text);
  } catch (cause) {
    throw new CliError(`${what}: a certificate in it cannot be read`, undefined, { cause });
  }
  if (found.length === 0) throw new CliError(`${what}: there is no certificate in it: expected PEM`);
  return found;
}

async function fetchCa(server: string): Promise<string> {
  try {
    return await read(new URL('ca.pem', `${server}/`));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CliError(`cannot ask ${server} for its CA: ${reason}`, exitStatus.unavailable, { cause });
  }
}

function read(url: URL): Promise<string> {
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(fetchTimeoutMs);
    const options = { rejectUnauthorized: false, agent: false, signal, minVersion: 'TLSv1.2' } as const;
    const request = get(url, options, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
        if (text.length > mostBytes) response.destroy(new Error('the answer is too long'));
      });
      response.on('error', reject);
      response.on('end', () => {
        if (response.statusCode === 200) resolve(text);
        else reject(new Error(`it answers ${response.statusCode}: ${text.slice(0, 200).trim()}`));
      });
    });
    request.on('error', (cause) =>
      reject(signal.aborted ? new Error(`no answer within ${fetchTimeoutMs / 1000} s`) : cause),
    );
  });
}

const learn = 'name its CA with `bayctl config set-context --ca-fingerprint sha256:…` or --ca-file';

/** What is wrong with a server's certificate, for the system codes of an error; undefined when that is not it. */
export function distrustOf(codes: readonly string[], message: string): string | undefined {
  for (const code of codes) {
    switch (code) {
      case 'CERT_HAS_EXPIRED':
        return 'its certificate has expired';
      case 'CERT_NOT_YET_VALID':
        return "its certificate is not valid yet, by this machine's clock";
      case 'ERR_TLS_CERT_ALTNAME_INVALID':
        return `its certificate is for another name (${message})`;
      case 'UNABLE_TO_VERIFY_LEAF_SIGNATURE':
      case 'UNABLE_TO_GET_ISSUER_CERT':
      case 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY':
      case 'SELF_SIGNED_CERT_IN_CHAIN':
      case 'DEPTH_ZERO_SELF_SIGNED_CERT':
      case 'CERT_SIGNATURE_FAILURE':
        return `nobody who is trusted here vouches for its certificate: ${learn}`;
      case 'ERR_SSL_WRONG_VERSION_NUMBER':
      case 'ERR_SSL_PACKET_LENGTH_TOO_LONG':
        return 'it does not speak TLS: is it http://?';
      case 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION':
      case 'ERR_SSL_UNSUPPORTED_PROTOCOL':
        return 'it speaks no version of TLS that is safe';
    }
  }
  return undefined;
}
