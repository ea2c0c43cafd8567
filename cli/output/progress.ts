import stringWidth from 'string-width';
import type { Io } from '../io.ts';
import { duration } from './age.ts';
import { escapeLine } from './escape.ts';
import { cut } from './table.ts';

const frames = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
const frameMs = 100;

/** One line on stderr that says what is waited for and how long already. Only on a terminal; elsewhere nothing is written. */
export class Progress {
  readonly #io: Io;
  readonly #startMs: number;
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #release: () => void;
  #text = '';
  #frame = 0;

  constructor(io: Io) {
    this.#io = io;
    this.#startMs = io.nowMs();
    const live = io.stderr.isTTY === true && io.env.TERM !== 'dumb';
    this.#timer = live ? setInterval(() => this.#draw(), frameMs).unref() : undefined;
    this.#release = live ? io.atExit(() => this.#erase()) : () => {};
  }

  /** What is waited for now. */
  show(text: string): void {
    this.#text = escapeLine(text);
    if (this.#timer) this.#draw();
  }

  /** Takes the line away. */
  end(): void {
    if (!this.#timer) return;
    clearInterval(this.#timer);
    this.#release();
    this.#erase();
  }

  #draw(): void {
    if (!this.#text) return;
    const since = ` ${duration(this.#io.nowMs() - this.#startMs)}`;
    const frame = frames[this.#frame++ % frames.length] ?? '';
    const room = Math.max(10, (this.#io.stderr.columns || 80) - 3 - stringWidth(since));
    this.#io.stderr.write(`\r${frame} ${cut(this.#text, room)}${since}\x1b[K`);
  }

  #erase(): void {
    this.#io.stderr.write('\r\x1b[K');
  }
}
