import { create } from '@bufbuild/protobuf';
import type { RunningWorkloads } from '../../agent/agent.ts';
import { type Desired, type OpenStream, type Reports, StreamError, type StreamSink } from '../../agent/ports.ts';
import { AssignmentOp, type ObjectReport, ObjectReportSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { ContainerPhase } from '../../proto/gen/baykeeper/v1/container_pb.js';
import type { ExecuteStart, LogsRequest } from '../../proto/gen/baykeeper/v1/container_service_pb.js';
import { NodePhase, type NodeStatus, NodeStatusSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';

/**
 * The engine's half of the agent without an engine: what is asked for is so at once. It removes only what it may, and counts what it
 * removed.
 */
export class FakeWorkloads implements RunningWorkloads {
  readonly context: { readonly desired: Desired; readonly reports: Reports };
  /** What is on the node: uid → generation. */
  readonly running = new Map<string, bigint>();
  /** Each removal, with what gave the right to it. */
  readonly removals: { readonly uid: string; readonly by: 'tombstone' | 'grave' | 'snapshot' }[] = [];
  started = false;
  openStreams = 0;
  phase: NodePhase = NodePhase.READY;
  #tell: () => void = () => undefined;
  readonly input: Uint8Array[] = [];
  #end: (() => void) | undefined;

  constructor(context: { readonly desired: Desired; readonly reports: Reports }) {
    this.context = context;
  }

  start(): void {
    this.started = true;
    this.#end = this.context.desired.subscribe(() => this.#reconcile());
    this.#reconcile();
  }

  stop(): void {
    this.#end?.();
  }

  snapshot(): ObjectReport[] {
    return [...this.running].map(([uid, generation]) => report(uid, generation));
  }

  async nodeStatus(): Promise<NodeStatus> {
    return create(NodeStatusSchema, { phase: this.phase, info: { hostname: 'fake' } });
  }

  onNodeChange(listener: () => void): () => void {
    this.#tell = listener;
    return () => undefined;
  }

  /** The node becomes so, and says it. */
  become(phase: NodePhase): void {
    this.phase = phase;
    this.#tell();
  }

  async openLogs(objectUid: string, request: LogsRequest, sink: StreamSink): Promise<OpenStream> {
    if (!this.running.has(objectUid)) throw new StreamError('not-found', `there is no ${objectUid} on this node`);
    const stream = this.#stream();
    void (async () => {
      if (!request.follow) {
        await sink.stdout(Buffer.from('out\n'));
        await sink.stderr(Buffer.from('err\n'));
        sink.end({});
        return;
      }
      // As fast as `yes`, for ever.
      const yes = Buffer.alloc(256 * 1024, 'y\n');
      while (!stream.closed) await sink.stdout(yes);
    })();
    return stream;
  }

  async openExecute(objectUid: string, start: ExecuteStart, sink: StreamSink): Promise<OpenStream> {
    if (!this.running.has(objectUid)) throw new StreamError('not-running', `${objectUid} does not run`);
    const stream = this.#stream();
    stream.onInput = (data) => sink.stdout(data);
    stream.onEnd = () => sink.end({ exitCode: start.command.length });
    return stream;
  }

  #stream() {
    this.openStreams += 1;
    const free = () => {
      this.openStreams -= 1;
    };
    return {
      closed: false,
      async onInput(_: Uint8Array): Promise<void> {},
      onEnd() {},
      async write(data: Uint8Array) {
        await this.onInput(data);
      },
      endInput() {
        this.onEnd();
      },
      resize() {},
      close() {
        if (this.closed) return;
        this.closed = true;
        free();
      },
    };
  }

  #reconcile(): void {
    const { desired, reports } = this.context;
    const { objects, graves, complete } = desired.current;
    for (const [uid, { assignment }] of objects) {
      if (assignment.op === AssignmentOp.DELETE) {
        this.#remove(uid, 'tombstone');
        reports.put(create(ObjectReportSchema, { uid, removed: true }));
      } else if (this.running.get(uid) !== assignment.generation) {
        this.running.set(uid, assignment.generation);
        reports.put(report(uid, assignment.generation));
      }
    }
    for (const uid of graves) {
      this.#remove(uid, 'grave');
      void desired.buried(uid);
    }
    if (complete) for (const uid of [...this.running.keys()]) if (!objects.has(uid)) this.#remove(uid, 'snapshot');
  }

  #remove(uid: string, by: 'tombstone' | 'grave' | 'snapshot'): void {
    if (this.running.delete(uid)) this.removals.push({ uid, by });
  }
}

const report = (uid: string, generation: bigint) =>
  create(ObjectReportSchema, {
    uid,
    status: {
      case: 'container',
      value: { phase: ContainerPhase.RUNNING, delivery: { observedGeneration: generation } },
    },
  });
