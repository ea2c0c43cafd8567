import { BinaryWriter } from '@bufbuild/protobuf/wire';
import type { ConnectError } from '@connectrpc/connect';

/*
 * Two messages of google.rpc's error_details.proto, which many clients know. They are small, so they are written by hand: field numbers and types
 * are theirs.
 */

type Detail = ConnectError['details'][number];

const tag = (field: number): number => (field << 3) | 2;

/** google.rpc.BadRequest: which fields are wrong, and why. */
export function badRequestDetail(violations: readonly { readonly field: string; readonly message: string }[]): Detail {
  const writer = new BinaryWriter();
  for (const { field, message } of violations) {
    writer.uint32(tag(1)).fork();
    writer.uint32(tag(1)).string(field).uint32(tag(2)).string(message);
    writer.join();
  }
  return {
    type: 'google.rpc.BadRequest',
    value: writer.finish(),
    debug: { fieldViolations: violations.map(({ field, message }) => ({ field, description: message })) },
  };
}

/** google.rpc.ErrorInfo: what is wrong in one word, with what a program needs to go on. */
export function errorInfoDetail(reason: string, metadata: Readonly<Record<string, string>>): Detail {
  const domain = 'baykeeper.io';
  const writer = new BinaryWriter();
  writer.uint32(tag(1)).string(reason).uint32(tag(2)).string(domain);
  for (const [key, value] of Object.entries(metadata)) {
    writer.uint32(tag(3)).fork();
    writer.uint32(tag(1)).string(key).uint32(tag(2)).string(value);
    writer.join();
  }
  return { type: 'google.rpc.ErrorInfo', value: writer.finish(), debug: { reason, domain, metadata: { ...metadata } } };
}
