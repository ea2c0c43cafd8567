import type { ContainerSpec } from '../../proto/gen/baykeeper/v1/container_pb.js';

/**
 * What the loop needs of a container engine, and nothing else. Every driver passes one suite (contract.ts).
 *
 * Calls are safe to repeat: starting what runs, stopping what is stopped and removing what is gone succeed. Every call rejects with a
 * `DriverError` and nothing else, and never hangs for ever.
 */
export interface Driver {
  /** One line per container that bears all of these labels, running or not. */
  list(labels: Readonly<Record<string, string>>): Promise<EngineSummary[]>;
  /** By the engine's id or by name. Undefined: there is none. */
  inspect(idOrName: string): Promise<EngineContainer | undefined>;
  hasImage(image: string): Promise<boolean>;
  pull(image: string, signal?: AbortSignal): Promise<void>;
  /** Makes it, and does not start it. Resolves with its id. The image must be there. */
  create(request: CreateRequest): Promise<string>;
  /** Changes what can change in place, on a running container too. */
  update(id: string, request: UpdateRequest): Promise<void>;
  rename(id: string, name: string): Promise<void>;
  start(id: string): Promise<void>;
  /** Asks it to stop, and kills it after `timeoutSeconds`; unset: as long as it was made with. Resolves when it has ended. */
  stop(id: string, timeoutSeconds?: number): Promise<void>;
  pause(id: string): Promise<void>;
  unpause(id: string): Promise<void>;
  /** Kills it where it runs; takes its anonymous volumes along and leaves the named ones. */
  remove(id: string): Promise<void>;
  /** Events from `sinceMs` up to now, as far back as the engine remembers (some hundred; none from before it was started). */
  history(sinceMs: number): Promise<EngineEvent[]>;
  /**
   * Events from `sinceMs` on, then as they come. Ends or throws when the engine goes away;
   * ends when `signal` aborts. `opened` is called when no event can be missed any more.
   */
  events(options: EventOptions): AsyncIterable<EngineEvent>;
  info(): Promise<EngineInfo>;
  /** Whether it answers. Cheap. */
  ping(): Promise<void>;
  logs(id: string, options: LogOptions): Promise<EngineOutput>;
  exec(id: string, options: ExecOptions): Promise<EngineExec>;
}

export type EngineState = 'created' | 'running' | 'paused' | 'restarting' | 'exited' | 'removing' | 'dead';

export interface EngineSummary {
  readonly id: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly state: EngineState;
}

/** Times are in milliseconds since 1970, with a fraction; undefined when it never happened. */
export interface EngineContainer extends EngineSummary {
  readonly imageId: string;
  readonly createdMs: number;
  readonly startedMs: number | undefined;
  readonly finishedMs: number | undefined;
  readonly exitCode: number;
  readonly oomKilled: boolean;
  /** Why it could not be started. */
  readonly error: string;
  /** Restarts by the engine since it was started by somebody. */
  readonly restartCount: number;
  readonly health: 'none' | 'starting' | 'healthy' | 'unhealthy';
  readonly restart: EngineRestart;
  /** 0: no limit. */
  readonly nanoCpus: number;
  readonly memoryBytes: number;
  readonly ports: readonly EnginePort[];
  /** Of its first process, as the engine sees it. 0 when it does not run. */
  readonly pid: number;
  readonly grants: EngineGrants;
}

/** What a container was given of its machine. */
export interface EngineGrants {
  /** As it was asked for. */
  readonly image: string;
  readonly hostMounts: readonly { readonly path: string; readonly writable: boolean }[];
  /** Ports of the machine that lead in, as they were asked for. 0: one that the engine chooses. */
  readonly hostPorts: readonly number[];
  /** Beyond those that every container has. */
  readonly capabilities: readonly string[];
}

/** `maxRetries` counts with `on-failure` only; 0: without end. */
export interface EngineRestart {
  readonly policy: 'unless-stopped' | 'on-failure' | 'no' | 'always';
  readonly maxRetries: number;
}

export interface EnginePort {
  readonly containerPort: number;
  readonly hostPort: number;
  readonly protocol: 'tcp' | 'udp' | 'sctp';
  readonly hostIp: string;
}

/** `labels` are all of them: the user's and ours. */
export interface CreateRequest {
  readonly name: string;
  readonly spec: ContainerSpec;
  readonly labels: Readonly<Record<string, string>>;
}

/** A limit that is undefined stays as it is. An engine cannot take a limit away in place. */
export interface UpdateRequest {
  readonly restart?: EngineRestart;
  readonly nanoCpus?: number;
  readonly memoryBytes?: number;
}

export interface EventOptions {
  readonly sinceMs: number;
  readonly signal: AbortSignal;
  readonly opened: () => void;
}

/** Others than these are not passed on. */
export const eventActions = [
  'create',
  'start',
  'die',
  'stop',
  'kill',
  'oom',
  'pause',
  'unpause',
  'rename',
  'update',
  'health_status',
  'destroy',
] as const;
export type EventAction = (typeof eventActions)[number];

export interface EngineEvent {
  readonly action: EventAction;
  readonly timeMs: number;
  readonly id: string;
  readonly name: string;
  /** With `rename`. */
  readonly oldName: string | undefined;
  readonly labels: Readonly<Record<string, string>>;
  /** With `die`. */
  readonly exitCode: number | undefined;
}

export interface EngineInfo {
  /** For example "docker". */
  readonly engine: string;
  readonly version: string;
  readonly apiVersion: string;
  /** Where it keeps its data: the file system to watch. */
  readonly rootDir: string;
  readonly os: string;
}

export interface LogOptions {
  readonly follow: boolean;
  /** Undefined: all. */
  readonly tailLines: number | undefined;
  readonly sinceMs: number | undefined;
  readonly timestamps: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

export interface OutputChunk {
  readonly stream: 'stdout' | 'stderr';
  readonly data: Uint8Array;
}

/** Output as it is asked for: nothing is read ahead of the consumer but what a socket holds. */
export interface EngineOutput {
  readonly chunks: AsyncIterable<OutputChunk>;
  /** Frees everything. Safe to repeat. */
  close(): void;
}

export interface ExecOptions {
  readonly command: readonly string[];
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly env: readonly string[];
  readonly workingDir: string;
  readonly user: string;
  readonly size: { readonly columns: number; readonly rows: number } | undefined;
}

export interface EngineExec extends EngineOutput {
  /** Resolves when there is room for more. */
  write(data: Uint8Array): Promise<void>;
  endInput(): void;
  resize(size: { readonly columns: number; readonly rows: number }): Promise<void>;
  /** Once `chunks` has ended. */
  exitCode(): Promise<number>;
  /** Kills what it started, too. */
  close(): void;
}

export type DriverErrorKind =
  | 'image-not-found'
  | 'pull-denied'
  | 'pull-failed'
  | 'port-taken'
  | 'name-taken'
  | 'no-space'
  | 'engine-unavailable'
  | 'invalid'
  | 'permission'
  | 'not-found'
  | 'not-running'
  /** A crash of the engine has left something of the container that keeps it from being started. */
  | 'leftover'
  | 'cancelled'
  | 'other';

/** Kinds that stay as they are until somebody changes the object or the node: tried again rarely. */
const lasting: ReadonlySet<DriverErrorKind> = new Set(['invalid', 'pull-denied', 'permission']);

/** All that a driver rejects with. The message is for the user: what is so, and what the engine said. */
export class DriverError extends Error {
  override readonly name = 'DriverError';
  readonly kind: DriverErrorKind;
  /** Whether it may go away by itself. */
  readonly retryable: boolean;
  constructor(kind: DriverErrorKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
    this.retryable = !lasting.has(kind);
  }
}
