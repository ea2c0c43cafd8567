/** Kubernetes' streams of a command, whatever carries them (channel.k8s.io). */
export const channels = { stdin: 0, stdout: 1, stderr: 2, status: 3, resize: 4 } as const;

/** What carries them. */
export interface ExecTransport {
  /** As they come, read as they are asked for. Ends when the connection does; may throw. */
  readonly frames: AsyncIterable<{ readonly channel: number; readonly data: Uint8Array }>;
  /** Resolves when there is room for more. Never rejects. */
  send(channel: number, data: Uint8Array): Promise<void>;
  closeInput(): void;
  close(): void;
}
