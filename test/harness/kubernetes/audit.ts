import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Flags } from './api_server.ts';

/** A request that the API server has answered. */
export interface AuditEvent {
  /** `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`. */
  readonly verb: string;
  readonly user: string;
  readonly userAgent: string;
  /** With its query: of a server-side apply the field manager is in it, of a dry run `dryRun=All`. */
  readonly uri: string;
  /** Plural: `pods`. Empty for what is no resource, as is `namespace` for what has none, and `name` for lists. */
  readonly resource: string;
  readonly subresource: string;
  readonly namespace: string;
  readonly name: string;
  /** HTTP status. */
  readonly code: number;
  /** Milliseconds since 1970, when it came. */
  readonly receivedMs: number;
  /** The same, when it was answered. */
  readonly answeredMs: number;
}

/** One line of the log, as far as it is read. */
interface LogLine {
  readonly verb: string;
  readonly user?: { readonly username?: string };
  readonly userAgent?: string;
  readonly requestURI: string;
  readonly objectRef?: Partial<Record<'resource' | 'subresource' | 'namespace' | 'name', string>>;
  readonly responseStatus?: { readonly code?: number };
  readonly requestReceivedTimestamp: string;
  readonly stageTimestamp: string;
}

/** Every request once, when it is answered; watches as well, when they end. */
const policy = {
  apiVersion: 'audit.k8s.io/v1',
  kind: 'Policy',
  omitStages: ['RequestReceived', 'ResponseStarted'],
  rules: [{ level: 'Metadata' }],
};

const logFile = (folder: string) => path.join(folder, 'audit.log');

/** Makes an API server keep an audit log in `folder`. */
export async function auditFlags(folder: string): Promise<Flags> {
  const policyFile = path.join(folder, 'audit-policy.yaml');
  // JSON is YAML.
  await writeFile(policyFile, JSON.stringify(policy));
  return { 'audit-policy-file': policyFile, 'audit-log-path': logFile(folder), 'audit-log-mode': 'blocking' };
}

/** What is in the log so far, in the order of the answers. Throws when none is kept. */
export async function readAudit(folder: string): Promise<AuditEvent[]> {
  const text = await readFile(logFile(folder), 'utf8').catch((cause) => {
    throw new Error('the cluster keeps no audit log: start it with { audit: true }', { cause });
  });
  // The last line may be half written.
  const lines = text
    .slice(0, text.lastIndexOf('\n') + 1)
    .split('\n')
    .filter(Boolean);
  return lines.map((line) => {
    const { verb, user, userAgent = '', requestURI, objectRef, responseStatus, ...rest }: LogLine = JSON.parse(line);
    const { resource = '', subresource = '', namespace = '', name = '' } = objectRef ?? {};
    return {
      verb,
      user: user?.username ?? '',
      userAgent,
      uri: requestURI,
      resource,
      subresource,
      namespace,
      name,
      code: responseStatus?.code ?? 0,
      receivedMs: Date.parse(rest.requestReceivedTimestamp),
      answeredMs: Date.parse(rest.stageTimestamp),
    };
  });
}
