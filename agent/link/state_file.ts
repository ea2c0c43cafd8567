import { createHash } from 'node:crypto';
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { type Assignment, AssignmentSchema } from '../../proto/gen/baykeeper/bus/v1/bus_pb.js';
import type { ChainState, Entry } from './chain.ts';
import { isUid } from './chain.ts';

/**
 * The file that holds the desired state:
 *
 *     magic "BKAGENT\n" (8) · version (u32) · length of the body (u32) · SHA-256 of all that comes before and of the body (32) · body
 *
 * The body is a JSON header (u32 length, UTF-8) and then, for each object: publish time (f64), receive time (f64), length (u32),
 * Assignment. Numbers are little-endian. A file that is not exactly so, or is another node's, is not taken.
 */

const magic = Buffer.from('BKAGENT\n');
const version = 1;
const headerBytes = 8 + 4 + 4 + 32;
const prefixBytes = 8 + 4 + 4;

/** Whose state it is. */
export interface StateOwner {
  readonly bayUid: string;
  readonly nodeUid: string;
}

/** The file is not usable. The message says why. */
export class StateFileError extends Error {
  override readonly name = 'StateFileError';
}

interface Meta extends StateOwner {
  readonly revision: string;
  readonly complete: boolean;
  readonly count: number;
  readonly graves: readonly string[];
}

/** Assignments as they lie in the file, kept from one write to the next: few of them change in between. */
export type EncodedAssignments = WeakMap<Assignment, Uint8Array>;

/** The file's content, in pieces to be written one after the other. */
export function encodeState(
  owner: StateOwner,
  state: ChainState,
  encoded: EncodedAssignments = new WeakMap(),
): Uint8Array[] {
  const meta: Meta = {
    bayUid: owner.bayUid,
    nodeUid: owner.nodeUid,
    revision: String(state.revision),
    complete: state.complete,
    count: state.entries.size,
    graves: [...state.graves],
  };
  const json = Buffer.from(JSON.stringify(meta));
  const assignments: Uint8Array[] = [];
  let size = 4 + json.byteLength;
  for (const { assignment } of state.entries.values()) {
    const bytes = encoded.get(assignment) ?? toBinary(AssignmentSchema, assignment);
    encoded.set(assignment, bytes);
    assignments.push(bytes);
    size += 8 + 8 + 4 + bytes.byteLength;
  }
  const body = Buffer.allocUnsafe(size);
  let at = body.writeUInt32LE(json.byteLength, 0);
  at += json.copy(body, at);
  let index = 0;
  for (const { publishTimeMs, receiveTimeMs } of state.entries.values()) {
    const bytes = assignments[index] ?? new Uint8Array();
    index += 1;
    at = body.writeDoubleLE(publishTimeMs, at);
    at = body.writeDoubleLE(receiveTimeMs, at);
    at = body.writeUInt32LE(bytes.byteLength, at);
    body.set(bytes, at);
    at += bytes.byteLength;
  }
  const header = Buffer.alloc(headerBytes);
  magic.copy(header);
  header.writeUInt32LE(version, 8);
  header.writeUInt32LE(body.byteLength, 12);
  checksum(header, body).copy(header, prefixBytes);
  return [header, body];
}

/** Throws StateFileError when the file is damaged, of another version, or of another node. */
export function decodeState(owner: StateOwner, file: Buffer): ChainState {
  if (file.byteLength < headerBytes || !file.subarray(0, 8).equals(magic)) throw new StateFileError('not a state file');
  if (file.readUInt32LE(8) !== version) throw new StateFileError(`of version ${file.readUInt32LE(8)}, not ${version}`);
  const body = file.subarray(headerBytes);
  if (file.readUInt32LE(12) !== body.byteLength) throw new StateFileError('cut off, or too long');
  if (!checksum(file, body).equals(file.subarray(prefixBytes, headerBytes))) throw new StateFileError('wrong checksum');
  try {
    return parseBody(owner, body);
  } catch (error) {
    if (error instanceof StateFileError) throw error;
    throw new StateFileError('malformed', { cause: error });
  }
}

function parseBody(owner: StateOwner, body: Buffer): ChainState {
  const jsonBytes = body.readUInt32LE(0);
  let at = 4 + jsonBytes;
  const meta = parseMeta(JSON.parse(body.toString('utf8', 4, at)));
  if (meta.bayUid !== owner.bayUid || meta.nodeUid !== owner.nodeUid) {
    throw new StateFileError(`of node ${meta.nodeUid} in bay ${meta.bayUid}`);
  }
  const entries = new Map<string, Entry>();
  for (let i = 0; i < meta.count; i += 1) {
    const publishTimeMs = body.readDoubleLE(at);
    const receiveTimeMs = body.readDoubleLE(at + 8);
    const length = body.readUInt32LE(at + 16);
    at += 20;
    if (at + length > body.byteLength) throw new StateFileError('malformed');
    const assignment: Assignment = fromBinary(AssignmentSchema, body.subarray(at, at + length));
    at += length;
    if (!isUid(assignment.uid)) throw new StateFileError('malformed');
    entries.set(assignment.uid, { assignment, publishTimeMs, receiveTimeMs });
  }
  if (at !== body.byteLength || entries.size !== meta.count) throw new StateFileError('malformed');
  return { revision: BigInt(meta.revision), complete: meta.complete, entries, graves: new Set(meta.graves) };
}

function parseMeta(value: unknown): Meta {
  const meta = value as Partial<Record<keyof Meta, unknown>> | null;
  if (
    typeof meta !== 'object' ||
    meta === null ||
    typeof meta.bayUid !== 'string' ||
    typeof meta.nodeUid !== 'string' ||
    typeof meta.revision !== 'string' ||
    !/^\d{1,19}$/.test(meta.revision) ||
    typeof meta.complete !== 'boolean' ||
    typeof meta.count !== 'number' ||
    !Array.isArray(meta.graves) ||
    !meta.graves.every(isUid)
  ) {
    throw new StateFileError('malformed');
  }
  return meta as Meta;
}

const checksum = (header: Buffer, body: Buffer): Buffer =>
  createHash('sha256').update(header.subarray(0, prefixBytes)).update(body).digest();
