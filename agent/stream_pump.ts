import type { EngineExec, EngineOutput } from './drivers/driver.ts';
import type { OpenStream, StreamSink } from './ports.ts';

/** A log that flows into a sink. */
export function outputStream(output: EngineOutput, sink: StreamSink): OpenStream {
  const pump = new Pump(output, sink, async () => ({}));
  return {
    write: async () => undefined,
    endInput: () => undefined,
    resize: () => undefined,
    close: () => pump.close(),
  };
}

/** A command whose output flows into a sink. */
export function executeStream(exec: EngineExec, sink: StreamSink): OpenStream {
  const pump = new Pump(exec, sink, async () => ({ exitCode: await exec.exitCode() }));
  return {
    write: (data) => exec.write(data),
    endInput: () => exec.endInput(),
    resize(to) {
      // A window that closes while it is being resized is no error of anybody's.
      if (to.columns > 0 && to.rows > 0) exec.resize(to).catch(() => undefined);
    },
    close: () => pump.close(),
  };
}

/** Carries output to the sink, one piece at a time: the next is read when the sink has room. */
class Pump {
  readonly #output: EngineOutput;
  #closed = false;

  constructor(output: EngineOutput, sink: StreamSink, result: () => Promise<{ exitCode?: number }>) {
    this.#output = output;
    void this.#run(sink, result);
  }

  close(): void {
    this.#closed = true;
    this.#output.close();
  }

  async #run(sink: StreamSink, result: () => Promise<{ exitCode?: number }>): Promise<void> {
    let end: Parameters<StreamSink['end']>[0];
    try {
      for await (const { stream, data } of this.#output.chunks) {
        if (this.#closed) break;
        await (stream === 'stderr' ? sink.stderr(data) : sink.stdout(data));
      }
      end = this.#closed ? { error: 'closed' } : await result();
    } catch (error) {
      end = { error: this.#closed ? 'closed' : error instanceof Error ? error.message : String(error) };
    }
    // Whoever reads has all of it: what is left (a command that closed its output and goes on) is nobody's any more.
    this.close();
    sink.end(end);
  }
}
