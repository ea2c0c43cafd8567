import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { until } from '../until.ts';
import type { Kubernetes } from './cluster.ts';

/** What the API server asks, as far as tests look at it. */
export interface AdmissionRequest {
  readonly uid: string;
  readonly kind: { readonly group: string; readonly version: string; readonly kind: string };
  readonly namespace?: string;
  readonly name?: string;
  readonly operation: 'CREATE' | 'UPDATE' | 'DELETE' | 'CONNECT';
  readonly userInfo: { readonly username?: string };
  readonly dryRun?: boolean;
  // biome-ignore lint/suspicious/noExplicitAny: whatever kind of object the test has rules for.
  readonly object: any;
}

export interface AdmissionVerdict {
  readonly allowed: boolean;
  /** What the user is told. */
  readonly message?: string;
  /** HTTP status of a refusal. Default: the cluster's own, 400. */
  readonly code?: number;
  /** Of a mutating one: a JSON patch (RFC 6902). */
  readonly patch?: readonly object[];
}

export interface AdmissionWebhookOptions {
  /** Default: Validating. */
  readonly kind?: 'Validating' | 'Mutating';
  /** Rules of a webhook configuration. Default: to create or update pods, services and replication controllers. */
  readonly rules?: readonly object[];
  /** Default: Fail. */
  readonly failurePolicy?: 'Fail' | 'Ignore';
  /** Default 5. */
  readonly timeoutSeconds?: number;
  /** What it says; one that throws or takes too long fails. */
  readonly review: (request: AdmissionRequest) => AdmissionVerdict | Promise<AdmissionVerdict>;
}

export interface AdmissionWebhook extends AsyncDisposable {
  /** How often it was asked. */
  readonly calls: number;
}

/** Of objects that are never made, by which is seen which webhooks the API server knows. */
const probeLabel = 'baykeeper-test/webhook';

const defaultRules = [
  {
    apiGroups: [''],
    apiVersions: ['v1'],
    operations: ['CREATE', 'UPDATE'],
    resources: ['pods', 'services', 'replicationcontrollers'],
  },
];

/** Starts a webhook on 127.0.0.1 that the API server asks over TLS, and is asked when this resolves; no longer when it is disposed of. */
export async function startAdmissionWebhook(
  cluster: Pick<Kubernetes, 'apiServer' | 'ca' | 'certificate' | 'request'>,
  options: AdmissionWebhookOptions,
): Promise<AdmissionWebhook> {
  const { kind = 'Validating', rules = defaultRules, failurePolicy = 'Fail', timeoutSeconds = 5, review } = options;
  const id = randomUUID();
  let calls = 0;
  let probes = 0;
  const { cert, key } = await cluster.certificate({ commonName: 'webhook', hosts: ['127.0.0.1'] });
  const server = createServer({ cert, key }, (incoming, answer) => {
    const respond = async () => {
      let text = '';
      for await (const chunk of incoming.setEncoding('utf8')) text += chunk;
      const { apiVersion, request }: { apiVersion: string; request: AdmissionRequest } = JSON.parse(text);
      if (incoming.url?.startsWith('/probe')) probes += 1;
      else calls += 1;
      const verdict = incoming.url?.startsWith('/probe') ? { allowed: true } : await review(request);
      answer.setHeader('content-type', 'application/json');
      answer.end(JSON.stringify({ apiVersion, kind: 'AdmissionReview', response: responseTo(request, verdict) }));
    };
    respond().catch((error: Error) => {
      answer.statusCode = 500;
      answer.end(error.message);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  const webhook = (name: string, path: string, more: object) => ({
    name,
    clientConfig: { url: `https://127.0.0.1:${port}${path}`, caBundle: Buffer.from(cluster.ca).toString('base64') },
    admissionReviewVersions: ['v1'],
    sideEffects: 'None',
    timeoutSeconds,
    failurePolicy,
    ...more,
  });
  const configuration = {
    apiVersion: 'admissionregistration.k8s.io/v1',
    kind: `${kind}WebhookConfiguration`,
    metadata: { name: `webhook-${id}` },
    webhooks: [
      webhook('review.baykeeper.test', '/review', {
        rules,
        objectSelector: { matchExpressions: [{ key: probeLabel, operator: 'DoesNotExist' }] },
      }),
      webhook('probe.baykeeper.test', '/probe', {
        rules: [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['configmaps'] }],
        objectSelector: { matchLabels: { [probeLabel]: id } },
      }),
    ],
  };
  const collection = `/apis/admissionregistration.k8s.io/v1/${kind.toLowerCase()}webhookconfigurations`;
  const send = async (method: string, path: string, body?: object) => {
    const response = await cluster.request(method, path, { body });
    if (response.status >= 300)
      throw new Error(`${method} ${path}: ${response.status} ${JSON.stringify(response.body)}`);
  };
  const isAsked = async () => {
    const before = probes;
    await send('POST', '/api/v1/namespaces/default/configmaps?dryRun=All', {
      metadata: { generateName: 'probe-', labels: { [probeLabel]: id } },
    });
    return probes > before;
  };
  const close = async () => {
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  };
  try {
    await send('POST', collection, configuration);
    await until('the API server asks the webhook', isAsked);
  } catch (error) {
    await close();
    throw error;
  }
  return {
    get calls() {
      return calls;
    },
    async [Symbol.asyncDispose]() {
      try {
        // Without an API server there is nobody who would ask.
        if (!cluster.apiServer.running) return;
        await send('DELETE', `${collection}/${configuration.metadata.name}`);
        await until('the API server asks the webhook no more', async () => !(await isAsked()));
      } finally {
        await close();
      }
    },
  };
}

function responseTo({ uid }: AdmissionRequest, { allowed, message, code, patch }: AdmissionVerdict): object {
  return {
    uid,
    allowed,
    ...((message !== undefined || code !== undefined) && { status: { message, code } }),
    ...(patch && { patchType: 'JSONPatch', patch: Buffer.from(JSON.stringify(patch)).toString('base64') }),
  };
}
