/** What a server shows, and what its clients are to trust. */
export interface CertificateMaterial {
  /** The server's certificate, and those behind it, as PEM. */
  readonly chain: string;
  /** Its key, as PEM. */
  readonly key: string;
  /** What clients are to trust, the newest first, as PEM. Empty: whom every system trusts. */
  readonly trusted: readonly string[];
  /** When the certificate ends, in milliseconds since 1970. */
  readonly endMs: number;
  /** From when on it should have been replaced: whoever sees to that has forgotten it, or cannot. */
  readonly lateMs: number;
}

/** The certificate of our servers, which changes while they run. */
export interface ServerCertificate {
  readonly current: CertificateMaterial;
  /** Calls back after each change. Returns what ends it. */
  onChange(listener: (material: CertificateMaterial) => void): () => void;
  /** Looks now. What cannot be read is logged, and what there was stays. Never rejects. */
  refresh(): Promise<void>;
  close(): void;
}
