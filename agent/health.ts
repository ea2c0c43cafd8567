import { readFile, statfs } from 'node:fs/promises';
import { arch, cpus, hostname, loadavg, networkInterfaces, release, uptime } from 'node:os';
import { create } from '@bufbuild/protobuf';
import { durationFromMs, timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  ConditionStatus,
  type NodeCondition,
  NodeConditionSchema,
  type NodeInfo,
  NodeInfoSchema,
  NodePhase,
  type NodeStatus,
  NodeStatusSchema,
  type NodeUsage,
  NodeUsageSchema,
} from '../proto/gen/baykeeper/v1/node_pb.js';
import type { Clock } from './clock.ts';
import type { EngineInfo } from './drivers/driver.ts';
import { type PolicySource, summary } from './policy.ts';

/** When a node counts as under pressure. */
export interface HealthThresholds {
  /** Least part of the memory that is to be available. Default 0.05. */
  readonly memoryAvailable?: number;
  /** Least part of the disk that is to be free. Default 0.1. */
  readonly diskFree?: number;
  /** Least number of bytes that is to be free on the disk. Default 1 GiB. */
  readonly diskFreeBytes?: number;
}

export interface HealthOptions {
  readonly clock: Clock;
  readonly thresholds?: HealthThresholds;
  /** Which addresses the node has. Throws where the agent may not ask. Default: as Node.js sees it. */
  readonly networkInterfaces?: typeof networkInterfaces;
}

/** What is known of the engine. */
export interface EngineHealth {
  /** As of the last time it was up. */
  readonly info: EngineInfo | undefined;
  /** Why it cannot be used; undefined: it can. */
  readonly problem: string | undefined;
  /** The same for programs, one word in CamelCase. Default `EngineUnavailable`. */
  readonly problemReason?: string;
  readonly containersRunning: number;
  readonly containersTotal: number;
  /** Of the Docker engine that containers can go to, where `info` is of another one. Default: there is none. */
  readonly dockerVersion?: string;
  /** What else is to be said of the node. */
  readonly findings?: readonly Finding[];
}

/** One of a node's conditions. */
export interface Finding {
  readonly type: string;
  /** Undefined: that is not known. */
  readonly holds: boolean | undefined;
  readonly reason: string;
  readonly message: string;
}

/** What the node's owner allows on it, for its users to see. */
export function policyFinding({ current, problem }: PolicySource): Finding {
  const type = 'PolicyInForce';
  const holds = current.source !== '';
  const says = holds ? `${current.source}: ${summary(current)}` : '';
  if (problem === undefined) return { type, holds, reason: holds ? 'PolicyRead' : 'NoPolicy', message: says };
  const kept = holds ? `the one before holds: ${says}` : 'until it is, everything is allowed';
  return { type, holds, reason: 'PolicyInvalid', message: `${problem}; ${kept}`.slice(0, maxMessageChars) };
}

const maxMessageChars = 2048;

/** What a node is and uses. Each look costs a few small files of /proc and one statfs. */
export class NodeHealth {
  readonly #clock: Clock;
  readonly #thresholds: Required<HealthThresholds>;
  readonly #networkInterfaces: typeof networkInterfaces;
  readonly #since = new Map<string, { readonly status: ConditionStatus; readonly ms: number }>();
  #cpu: CpuTimes | undefined;
  #cpuPercent = 0;
  #os: string | undefined;

  constructor({ clock, thresholds, networkInterfaces: interfaces = networkInterfaces }: HealthOptions) {
    this.#clock = clock;
    this.#networkInterfaces = interfaces;
    this.#thresholds = { memoryAvailable: 0.05, diskFree: 0.1, diskFreeBytes: 2 ** 30, ...thresholds };
  }

  /** Never rejects: what cannot be read is left out, and its condition is UNKNOWN. */
  async status(engine: EngineHealth): Promise<NodeStatus> {
    const [memory, disk, cpu] = await Promise.all([readMemory(), readDisk(engine.info?.rootDir), readCpu()]);
    this.#os ??= await readOs();
    this.#measure(cpu);
    const reason = engine.problem === undefined ? 'EngineAnswers' : (engine.problemReason ?? 'EngineUnavailable');
    const message = engine.problem ?? '';
    const ready: Finding = { type: 'Ready', holds: engine.problem === undefined, reason, message };
    const findings: Finding[] = [
      this.#memoryPressure(memory),
      this.#diskPressure(disk),
      { type: 'EngineUnavailable', holds: engine.problem !== undefined, reason, message },
      ...(engine.findings ?? []),
    ];
    const nowMs = this.#clock.now();
    return create(NodeStatusSchema, {
      phase: ready.holds ? NodePhase.READY : NodePhase.NOT_READY,
      reason: ready.holds ? '' : ready.reason,
      message: ready.message,
      conditions: [ready, ...findings].map((finding) => this.#condition(finding, nowMs)),
      observeTime: timestampFromMs(nowMs),
      info: this.#info(engine, memory),
      usage: this.#usage(engine, memory, disk),
    });
  }

  #measure(now: CpuTimes | undefined): void {
    const before = this.#cpu;
    if (!now) return;
    this.#cpu = now;
    const total = before ? now.total - before.total : now.total;
    const idle = before ? now.idle - before.idle : now.idle;
    if (total > 0) this.#cpuPercent = Math.min(100, Math.max(0, (100 * (total - idle)) / total));
  }

  #memoryPressure(memory: Memory | undefined): Finding {
    const type = 'MemoryPressure';
    if (!memory) return { type, holds: undefined, reason: 'Unknown', message: '/proc/meminfo cannot be read' };
    const holds = memory.available < memory.total * this.#thresholds.memoryAvailable;
    return {
      type,
      holds,
      reason: holds ? 'LittleMemory' : 'EnoughMemory',
      message: holds ? `${mebibytes(memory.available)} of ${mebibytes(memory.total)} are available` : '',
    };
  }

  #diskPressure(disk: Disk | undefined): Finding {
    const type = 'DiskPressure';
    if (!disk) return { type, holds: undefined, reason: 'Unknown', message: "the engine's disk cannot be seen" };
    const { diskFree, diskFreeBytes } = this.#thresholds;
    const holds = disk.free < disk.total * diskFree || disk.free < diskFreeBytes;
    return {
      type,
      holds,
      reason: holds ? 'LittleSpace' : 'EnoughSpace',
      message: holds ? `${mebibytes(disk.free)} of ${mebibytes(disk.total)} are free on the engine's disk` : '',
    };
  }

  #condition({ type, holds, reason, message }: Finding, nowMs: number): NodeCondition {
    const status = holds === undefined ? ConditionStatus.UNKNOWN : holds ? ConditionStatus.TRUE : ConditionStatus.FALSE;
    let since = this.#since.get(type);
    if (since?.status !== status) {
      since = { status, ms: nowMs };
      this.#since.set(type, since);
    }
    return create(NodeConditionSchema, {
      type,
      status,
      reason,
      message,
      lastTransitionTime: timestampFromMs(since.ms),
    });
  }

  #info({ info: engine, dockerVersion }: EngineHealth, memory: Memory | undefined): NodeInfo {
    // Rounded: it is worked out from two clocks, and must not seem to change.
    const bootMs = Math.round((Date.now() - uptime() * 1000) / 10_000) * 10_000;
    return create(NodeInfoSchema, {
      hostname: hostname(),
      os: engine?.os || this.#os || '',
      kernelVersion: release(),
      architecture: arch(),
      engine: engine?.engine ?? '',
      engineVersion: engine?.version ?? '',
      engineApiVersion: engine?.apiVersion ?? '',
      dockerVersion,
      cpus: this.#cpu?.count ?? cpus().length,
      memoryBytes: BigInt(memory?.total ?? 0),
      addresses: addresses(this.#networkInterfaces),
      bootTime: timestampFromMs(bootMs),
    });
  }

  #usage(engine: EngineHealth, memory: Memory | undefined, disk: Disk | undefined): NodeUsage {
    const [load1m = 0, load5m = 0, load15m = 0] = loadavg();
    return create(NodeUsageSchema, {
      cpuPercent: Math.round(this.#cpuPercent * 100) / 100,
      memoryUsedBytes: BigInt(memory ? memory.total - memory.available : 0),
      diskUsedBytes: BigInt(disk?.used ?? 0),
      diskTotalBytes: BigInt(disk?.total ?? 0),
      load1m,
      load5m,
      load15m,
      uptime: durationFromMs(Math.round(uptime() * 1000)),
      containersRunning: engine.containersRunning,
      containersTotal: engine.containersTotal,
    });
  }
}

interface CpuTimes {
  readonly total: number;
  readonly idle: number;
  readonly count: number;
}
interface Memory {
  readonly total: number;
  readonly available: number;
}
interface Disk {
  readonly total: number;
  readonly used: number;
  /** For whoever is not root. */
  readonly free: number;
}

const mebibytes = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    return undefined;
  }
}

async function readCpu(): Promise<CpuTimes | undefined> {
  const text = await readText('/proc/stat');
  const fields = /^cpu +(.*)$/m
    .exec(text ?? '')?.[1]
    ?.split(' ')
    .map(Number);
  if (!text || !fields || fields.length < 5 || fields.some(Number.isNaN)) return undefined;
  // user nice system idle iowait irq softirq steal; what guests use is in user already.
  const total = fields.slice(0, 8).reduce((sum, n) => sum + n, 0);
  return { total, idle: (fields[3] ?? 0) + (fields[4] ?? 0), count: text.match(/^cpu\d+ /gm)?.length ?? 1 };
}

async function readMemory(): Promise<Memory | undefined> {
  const text = await readText('/proc/meminfo');
  const kibibytes = (field: string) => Number(new RegExp(`^${field}: +(\\d+) kB$`, 'm').exec(text ?? '')?.[1]);
  const total = kibibytes('MemTotal') * 1024;
  const available = kibibytes('MemAvailable') * 1024;
  return Number.isFinite(total) && Number.isFinite(available) ? { total, available } : undefined;
}

/** Of the file system that holds a folder; of `/` where that cannot be seen from here (an engine in a namespace of its own). */
async function readDisk(folder: string | undefined): Promise<Disk | undefined> {
  for (const path of [folder, '/']) {
    if (!path) continue;
    try {
      const { bsize, blocks, bfree, bavail } = await statfs(path);
      return { total: blocks * bsize, used: (blocks - bfree) * bsize, free: bavail * bsize };
    } catch {
      // The next one.
    }
  }
  return undefined;
}

async function readOs(): Promise<string> {
  const text = await readText('/etc/os-release');
  return /^PRETTY_NAME="?([^"\n]*)"?$/m.exec(text ?? '')?.[1] ?? '';
}

function addresses(read: typeof networkInterfaces): string[] {
  let interfaces: ReturnType<typeof networkInterfaces>;
  try {
    interfaces = read();
  } catch {
    // In a sandbox without netlink sockets.
    return [];
  }
  const found = Object.entries(interfaces)
    // Bridges and virtual pairs of the engine lead nowhere from outside.
    .filter(([name]) => !/^(docker|br-|veth|cni|flannel)/.test(name))
    .flatMap(([, list]) => list ?? [])
    .filter((one) => !one.internal && !one.address.startsWith('fe80:'))
    .map((one) => one.address);
  return found.slice(0, 32);
}
