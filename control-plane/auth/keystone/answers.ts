import type { Principal } from '../../domain/principal.ts';

/** What Keystone said of a token. */
export type Answer = {
  /** When it was asked, Unix milliseconds. */
  readonly askedMs: number;
} & (
  | { readonly principal: Principal }
  /** It stands for somebody who may do nothing here: why. */
  | { readonly refusal: string; readonly subject: string; readonly expireTimeMs: number }
  /** It is no token, or not any more. */
  | { readonly unknown: true }
);

/** A bounded number of answers: what was not asked for longest goes first. */
export class Answers {
  readonly #most: number;
  readonly #byKey = new Map<string, Answer>();

  constructor(most: number) {
    this.#most = most;
  }

  get size(): number {
    return this.#byKey.size;
  }

  get(key: string): Answer | undefined {
    const answer = this.#byKey.get(key);
    if (!answer) return undefined;
    this.#byKey.delete(key);
    this.#byKey.set(key, answer);
    return answer;
  }

  set(key: string, answer: Answer): void {
    this.#byKey.delete(key);
    this.#byKey.set(key, answer);
    if (this.#byKey.size <= this.#most) return;
    for (const oldest of this.#byKey.keys()) {
      this.#byKey.delete(oldest);
      return;
    }
  }

  delete(key: string): void {
    this.#byKey.delete(key);
  }
}
