import { createHash } from 'node:crypto';
import { fromBinary } from '@bufbuild/protobuf';
import { AssignSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import { type ChainState, type Entry, emptyChain, isUid, takeDelta, takeSnapshot } from './chain.ts';
import { type KeptMessage, MessageLog } from './message_log.ts';
import { assemblyLimits, SnapshotAssembly } from './snapshot_assembly.ts';
import { UnverifiedError, type Verifier } from './verifier.ts';

/**
 * The file that holds the desired state:
 *
 *     magic "BKAGENT\n" (8) · version (u32) · length of the body (u32) · SHA-256 of all that comes before and of the body (32) · body
 *
 * The body is a JSON header (u32 length, UTF-8), then for each object its uid (u8 length, ASCII) with its publish and receive time (f64
 * each), then for each message of the log its length (u32) and itself, a Signed. Numbers are little-endian.
 *
 * What should run follows from the signed messages alone: reading the file verifies each, and takes it as if it came just now. What is
 * beside them cannot add to it or take from it. A file that is not exactly so, or is another node's, is not taken.
 */

const magic = Buffer.from('BKAGENT\n');
const version = 2;
const headerBytes = 8 + 4 + 4 + 32;
const prefixBytes = 8 + 4 + 4;

/** Whose state it is. */
export interface StateOwner {
  readonly bayUid: string;
  readonly nodeUid: string;
}

/** A state, and the messages that it follows from. */
export interface LoggedState {
  readonly state: ChainState;
  readonly log: MessageLog;
}

/** The file is not usable. The message says why. */
export class StateFileError extends Error {
  override readonly name = 'StateFileError';
}

interface Meta extends StateOwner {
  readonly objects: number;
  readonly messages: number;
  readonly graves: readonly string[];
}

/** The file's content, in pieces to be written one after the other. */
export function encodeState(owner: StateOwner, { state, log }: LoggedState): Uint8Array[] {
  const messages = log.messages();
  const meta: Meta = {
    bayUid: owner.bayUid,
    nodeUid: owner.nodeUid,
    objects: state.entries.size,
    messages: messages.length,
    graves: [...state.graves],
  };
  const json = Buffer.from(JSON.stringify(meta));
  let size = 4 + json.byteLength;
  for (const uid of state.entries.keys()) size += 1 + uid.length + 8 + 8;
  for (const { message } of messages) size += 4 + message.byteLength;
  const body = Buffer.allocUnsafe(size);
  let at = body.writeUInt32LE(json.byteLength, 0);
  at += json.copy(body, at);
  for (const [uid, { publishTimeMs, receiveTimeMs }] of state.entries) {
    at = body.writeUInt8(uid.length, at);
    at += body.write(uid, at, 'latin1');
    at = body.writeDoubleLE(publishTimeMs, at);
    at = body.writeDoubleLE(receiveTimeMs, at);
  }
  for (const { message } of messages) {
    at = body.writeUInt32LE(message.byteLength, at);
    body.set(message, at);
    at += message.byteLength;
  }
  const header = Buffer.alloc(headerBytes);
  magic.copy(header);
  header.writeUInt32LE(version, 8);
  header.writeUInt32LE(body.byteLength, 12);
  checksum(header, body).copy(header, prefixBytes);
  return [header, body];
}

/** Throws StateFileError when the file is damaged, of another version or another node, or not what the control plane has signed. */
export function decodeState(owner: StateOwner, file: Buffer, verifier: Pick<Verifier, 'openStored'>): LoggedState {
  if (file.byteLength < headerBytes || !file.subarray(0, 8).equals(magic)) throw new StateFileError('not a state file');
  if (file.readUInt32LE(8) !== version) throw new StateFileError(`of version ${file.readUInt32LE(8)}, not ${version}`);
  const body = file.subarray(headerBytes);
  if (file.readUInt32LE(12) !== body.byteLength) throw new StateFileError('cut off, or too long');
  if (!checksum(file, body).equals(file.subarray(prefixBytes, headerBytes))) throw new StateFileError('wrong checksum');
  try {
    return parseBody(owner, body, verifier);
  } catch (error) {
    if (error instanceof StateFileError) throw error;
    if (error instanceof UnverifiedError)
      throw new StateFileError(`a message in it: ${error.message}`, { cause: error });
    throw new StateFileError('malformed', { cause: error });
  }
}

function parseBody(owner: StateOwner, body: Buffer, verifier: Pick<Verifier, 'openStored'>): LoggedState {
  const jsonBytes = body.readUInt32LE(0);
  let at = 4 + jsonBytes;
  const meta = parseMeta(JSON.parse(body.toString('utf8', 4, at)));
  if (meta.bayUid !== owner.bayUid || meta.nodeUid !== owner.nodeUid) {
    throw new StateFileError(`of node ${meta.nodeUid} in bay ${meta.bayUid}`);
  }
  const times = new Map<string, { readonly publishTimeMs: number; readonly receiveTimeMs: number }>();
  for (let i = 0; i < meta.objects; i += 1) {
    const length = body.readUInt8(at);
    const uid = body.toString('latin1', at + 1, at + 1 + length);
    at += 1 + length;
    times.set(uid, { publishTimeMs: body.readDoubleLE(at), receiveTimeMs: body.readDoubleLE(at + 8) });
    at += 16;
  }
  const replay = new Replay(verifier);
  for (let i = 0; i < meta.messages; i += 1) {
    const length = body.readUInt32LE(at);
    at += 4;
    if (at + length > body.byteLength) throw new StateFileError('malformed');
    replay.take(body.subarray(at, at + length));
    at += length;
  }
  if (at !== body.byteLength) throw new StateFileError('malformed');
  const { state, log } = replay.end();
  const entries = new Map<string, Entry>();
  for (const [uid, entry] of state.entries) entries.set(uid, { ...entry, ...times.get(uid) });
  // Graves outlive the messages that made them. Of what is not all, only a message can say that something is to go.
  const graves = meta.graves.filter((uid) => !entries.has(uid) && (state.complete || state.graves.has(uid)));
  return { state: { ...state, entries, graves: new Set(graves) }, log };
}

/** Takes messages as they once came. */
class Replay {
  readonly #verifier: Pick<Verifier, 'openStored'>;
  #assembly = new SnapshotAssembly({ ...assemblyLimits, patienceMs: Number.POSITIVE_INFINITY });
  #state = emptyChain;
  #log = MessageLog.empty;

  constructor(verifier: Pick<Verifier, 'openStored'>) {
    this.#verifier = verifier;
  }

  take(message: Uint8Array): void {
    const { payload, keyId } = this.#verifier.openStored('assign', message);
    const { body } = fromBinary(AssignSchema, payload);
    const kept: KeptMessage = { message, keyId };
    if (body.case === 'delta' && !this.#assembly.collecting) {
      const taken = takeDelta(this.#state, body.value, 0);
      if (taken.outcome !== 'applied') throw new StateFileError('messages that do not follow one another');
      this.#state = taken.state;
      this.#log = this.#log.with(kept);
    } else if (body.case === 'snapshot' && this.#log.length === 0) {
      const collected = this.#assembly.add(body.value, 0, kept);
      if (collected.outcome === 'invalid') throw new StateFileError(`a snapshot that cannot be: ${collected.reason}`);
      if (collected.outcome !== 'whole') return;
      this.#state = takeSnapshot(emptyChain, collected.snapshot, 0).state;
      this.#log = MessageLog.ofSnapshot(collected.messages);
    } else throw new StateFileError('messages that do not belong together');
  }

  end(): LoggedState {
    if (this.#assembly.collecting) throw new StateFileError('a part of a snapshot is missing');
    return { state: this.#state, log: this.#log };
  }
}

function parseMeta(value: unknown): Meta {
  const meta = value as Partial<Record<keyof Meta, unknown>> | null;
  if (
    typeof meta !== 'object' ||
    meta === null ||
    typeof meta.bayUid !== 'string' ||
    typeof meta.nodeUid !== 'string' ||
    typeof meta.objects !== 'number' ||
    typeof meta.messages !== 'number' ||
    !Array.isArray(meta.graves) ||
    !meta.graves.every(isUid)
  ) {
    throw new StateFileError('malformed');
  }
  return meta as Meta;
}

const checksum = (header: Buffer, body: Buffer): Buffer =>
  createHash('sha256').update(header.subarray(0, prefixBytes)).update(body).digest();
