import { createHash } from 'node:crypto';
import type { NodeAddress } from './subjects.ts';

/**
 * What the control plane signs of the messages that it sends to agents.
 *
 *     "baykeeper signed v1" 0 · PURPOSE 0 · BAY 0 · NODE 0 · STREAM 0 · NONCE (16 bytes) · SHA-256 of the payload (32 bytes)
 *
 * So a signature is good for one kind of message, to one node, in answer to what that node has drawn, and for these very bytes. None of
 * the names can hold a zero byte. The payload is signed as it is sent: nothing is serialized a second time to verify it.
 */

/** Kinds of signed messages: the name of what is in the payload. */
export type SignedPurpose =
  | 'hello-reply'
  | 'sync-reply'
  | 'renew-reply'
  | 'assign'
  | 'stream-open'
  | 'stream-frame'
  | 'check';

export interface SignedContext extends NodeAddress {
  readonly purpose: SignedPurpose;
  /** What the agent drew for the session or the request. 16 bytes. */
  readonly nonce: Uint8Array;
  /** Of a frame: the stream it is of. Default: none. */
  readonly streamId?: string;
}

/** Type of a node's condition: lately its agent has refused messages, as their signature was not good. */
export const messagesRefused = 'MessagesRefused';

export const nonceBytes = 16;

/** Whether it can be a nonce. */
export const isNonce = (value: Uint8Array): boolean => value.byteLength === nonceBytes;

const token = /^[A-Za-z0-9-]{1,64}$/;

/** The bytes that are signed. Throws TypeError when a name or the nonce cannot be. */
export function signedBytes({ purpose, bayUid, nodeUid, nonce, streamId }: SignedContext, payload: Uint8Array): Buffer {
  for (const name of [bayUid, nodeUid, ...(streamId === undefined ? [] : [streamId])]) {
    if (!token.test(name)) throw new TypeError(`not a name that can be signed: ${JSON.stringify(name)}`);
  }
  if (!isNonce(nonce)) throw new TypeError(`a nonce of ${nonce.byteLength} bytes, not ${nonceBytes}`);
  const names = `baykeeper signed v1\0${purpose}\0${bayUid}\0${nodeUid}\0${streamId ?? ''}\0`;
  return Buffer.concat([Buffer.from(names, 'utf8'), nonce, createHash('sha256').update(payload).digest()]);
}

/** The name of a key, made of its 32 public bytes: 16 hex digits. */
export const signingKeyId = (publicKey: Uint8Array): string =>
  createHash('sha256').update(publicKey).digest('hex').slice(0, 16);
