import { allowAll, type Policy, type PolicySource, readPolicy } from '../../agent/policy.ts';

/** A node's policy that tests change. */
export class SettablePolicy implements PolicySource {
  current: Policy = allowAll;
  problem: string | undefined;
  readonly #listeners = new Set<() => void>();

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** As in a file. */
  set(rules: Readonly<Record<string, unknown>>): void {
    this.current = readPolicy({ default: 'allow', ...rules }, '/etc/baykeeper/agent.yaml');
    for (const listener of this.#listeners) listener();
  }
}
