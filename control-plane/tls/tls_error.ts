/** There can be no TLS as it was asked for. The message is one sentence for whoever runs the control plane: what is wrong, and what to do. */
export class TlsError extends Error {
  override readonly name = 'TlsError';
}
