/** What the supervisor asks of the control plane, as JSON over its one port. */
export class ControlPlaneApi {
  readonly #url: string;
  readonly #token: string;

  constructor(options: { readonly url: string; readonly token: string }) {
    this.#url = options.url;
    this.#token = options.token;
  }

  /** Makes a Docker bay of this name where there is none. */
  async ensureBay(name: string): Promise<void> {
    await this.#call('BayService/CreateBay', { bay: { metadata: { name }, spec: {} } }).catch((error: unknown) => {
      if (!(error instanceof ApiError) || error.code !== 'already_exists') throw error;
    });
  }

  /** A token with which one node can join the bay, within ten minutes. */
  async createJoinToken(bay: string): Promise<string> {
    const request = { bay, ttl: '600s', maxUses: 1, description: 'npm start' };
    const { token } = await this.#call('JoinTokenService/CreateJoinToken', request);
    if (typeof token !== 'string' || token === '')
      throw new ApiError('unknown', 'the control plane gave no join token');
    return token;
  }

  /** The nodes of a bay, with the short name of their phase: `READY`, `NOT_READY`, `UNKNOWN`; and why. */
  async listNodes(bay: string): Promise<{ name: string; phase: string; why: string }[]> {
    const { nodes } = await this.#call('NodeService/ListNodes', { bay });
    if (!Array.isArray(nodes)) return [];
    return nodes.map((node: NodeJson) => ({
      name: node.metadata?.name ?? '',
      phase: (node.status?.phase ?? '').replace(/^NODE_PHASE_/, ''),
      why: node.status?.message || node.status?.reason || '',
    }));
  }

  async #call(method: string, request: unknown): Promise<Record<string, unknown>> {
    const response = await fetch(`${this.#url}/baykeeper.v1.${method}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${this.#token}` },
      body: JSON.stringify(request),
      signal: AbortSignal.timeout(10_000),
    });
    const text = await response.text();
    const body = parse(text);
    if (response.ok) return body;
    const { code, message } = body;
    throw new ApiError(String(code ?? response.status), `${method}: ${message ?? text.slice(0, 200)}`);
  }
}

/** The control plane's own answer that something could not be done. `code`: as Connect spells it, `already_exists`. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

interface NodeJson {
  readonly metadata?: { readonly name?: string };
  readonly status?: { readonly phase?: string; readonly reason?: string; readonly message?: string };
}

function parse(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? { ...value } : {};
  } catch {
    return {};
  }
}
