import type { DescMethod } from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel } from '@bufbuild/protobuf/wkt';
import type { ConnectRouter, ContextValues } from '@connectrpc/connect';
import type { UniversalHandler } from '@connectrpc/connect/protocol';
import { ExhaustedError } from '../domain/errors.ts';
import { cutKey, principalKey } from './call.ts';

/** How much may wait to be taken by those who have asked for it. */
export interface AnswerLimits {
  /** Of answers to the callers of one project. Default 128 MiB. */
  readonly projectBytes?: number;
  /** How long a caller may take for an answer of more than a few kilobytes. Default 5 min. */
  readonly timeoutMs?: number;
}

/** What fits into the buffers of a connection needs no watching over. */
const smallBytes = 64 * 1024;

/**
 * Bounds what is held for callers who ask for much and take nothing of it. A change that is done is answered all the same: it would be taken for one that
 * was refused.
 */
export class Answers {
  readonly #projectBytes: number;
  readonly #timeoutMs: number;
  readonly #held = new Map<string, number>();

  constructor(limits: AnswerLimits = {}) {
    this.#projectBytes = limits.projectBytes ?? 128 * 1024 * 1024;
    this.#timeoutMs = limits.timeoutMs ?? 300_000;
  }

  /** So much waits from now on, until what is returned is called, which is safe to repeat. Throws ExhaustedError when it is too much. */
  hold({ idempotency }: DescMethod, values: ContextValues, bytes: number): () => void {
    const project = values.get(principalKey)?.project;
    if (project === undefined) return () => undefined;
    const held = (this.#held.get(project) ?? 0) + bytes;
    if (held > this.#projectBytes && idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS) {
      throw new ExhaustedError('too many answers wait to be taken: read those first, or ask for less at a time');
    }
    this.#held.set(project, held);
    const timer = bytes > smallBytes ? setTimeout(() => values.get(cutKey)(), this.#timeoutMs) : undefined;
    let waits = true;
    return () => {
      if (!waits) return;
      waits = false;
      clearTimeout(timer);
      const left = (this.#held.get(project) ?? 0) - bytes;
      if (left > 0) this.#held.set(project, left);
      else this.#held.delete(project);
    };
  }
}

/** Has what the unary handlers of a router answer counted while it is sent. */
export function holdAnswers(router: ConnectRouter, answers: Answers): void {
  for (const [i, handler] of router.handlers.entries()) {
    if (handler.method.methodKind !== 'unary') continue;
    const held: UniversalHandler = Object.assign(async (request: Parameters<UniversalHandler>[0]) => {
      const response = await handler(request);
      const { contextValues } = request;
      const { body } = response;
      if (!contextValues || !body || !(Symbol.asyncIterator in body)) return response;
      return { ...response, body: eachHeld(body, (bytes) => answers.hold(handler.method, contextValues, bytes)) };
    }, handler);
    router.handlers[i] = held;
  }
}

async function* eachHeld(
  chunks: AsyncIterable<Uint8Array>,
  hold: (bytes: number) => () => void,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    const release = hold(chunk.byteLength);
    try {
      yield chunk;
    } finally {
      release();
    }
  }
}
