import { get as getHttps } from 'node:https';
import { certificatesIn, fingerprintOf } from '../../proto/fingerprint.ts';
import { EnrollError } from './enroll_error.ts';

const mostBytes = 256 * 1024;

/**
 * The certificate authority of a control plane that is known by its fingerprint alone: read over a connection that nobody vouches for, and good
 * because only one certificate in the world has this fingerprint. As PEM. Rejects with EnrollError.
 */
export async function fetchAuthority(server: string, fingerprint: string, timeoutMs = 20_000): Promise<string> {
  const text = await read(new URL('ca.pem', `${server}/`), timeoutMs).catch((cause: Error) => {
    throw new EnrollError('unavailable', `cannot reach the control plane at ${server}: ${cause.message}`, { cause });
  });
  let found: ReturnType<typeof certificatesIn>;
  try {
    found = certificatesIn(text);
  } catch (cause) {
    throw new EnrollError('invalid', `${server} shows a certificate that cannot be read`, { cause });
  }
  const [authority] = found.filter((one) => one.ca && fingerprintOf(one) === fingerprint);
  if (authority) return String(authority);
  const shown = found.map(fingerprintOf).join(', ') || 'none';
  throw new EnrollError(
    'denied',
    `the CA of ${server} is not the one with fingerprint ${fingerprint}, but: ${shown}. Somebody may be in between, or the line is of another control plane: have bayctl bay join-command print a new one`,
  );
}

function read(url: URL, timeoutMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(timeoutMs);
    const request = getHttps(
      url,
      { rejectUnauthorized: false, agent: false, signal, minVersion: 'TLSv1.2' },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          text += chunk;
          if (text.length > mostBytes) response.destroy(new Error('the answer is too long'));
        });
        response.on('error', reject);
        response.on('end', () =>
          response.statusCode === 200 ? resolve(text) : reject(new Error(`it answers ${response.statusCode}`)),
        );
      },
    );
    request.on('error', (cause) =>
      reject(signal.aborted ? new Error(`no answer within ${timeoutMs / 1000} s`) : cause),
    );
  });
}
