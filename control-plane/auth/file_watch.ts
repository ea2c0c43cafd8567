import { type StatWatcher, unwatchFile, watchFile } from 'node:fs';

/** Has a file read again when it changes, one reading at a time. By looking, not by events: those do not tell of files that are replaced, or mounted. */
export class FileWatch implements Disposable {
  readonly #file: string;
  readonly #read: () => Promise<void>;
  readonly #changed = (): void => void this.#readAgain();
  readonly #watcher: StatWatcher;
  #reading: Promise<void> | undefined;

  /** @param read Must not reject. @param intervalMs How often to look. Default 1 s. */
  constructor(file: string, read: () => Promise<void>, intervalMs = 1_000) {
    this.#file = file;
    this.#read = read;
    this.#watcher = watchFile(file, { interval: intervalMs, persistent: false }, this.#changed);
    this.#watcher.unref();
  }

  [Symbol.dispose](): void {
    unwatchFile(this.#file, this.#changed);
  }

  /** What changes meanwhile is seen at the next look. */
  async #readAgain(): Promise<void> {
    await this.#reading;
    this.#reading = this.#read();
    await this.#reading;
  }
}
