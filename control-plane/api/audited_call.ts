import type { DescMethod } from '@bufbuild/protobuf';
import { type ContextValues, createContextKey } from '@connectrpc/connect';
import type { AuditedCall, AuditedObject } from '../audit/port.ts';
import { peerKey, principalKey, requestIdKey } from './call.ts';

/** What a stream was asked to be about; set by the audit interceptor with its first message, and when that is found. */
export const streamObjectsKey = createContextKey<readonly AuditedObject[]>([], { description: 'objects of a stream' });
/** Records that a command is about to be begun; set by the audit interceptor. Whoever begins one waits for it. */
export const beginKey = createContextKey<() => Promise<void>>(async () => undefined, { description: 'begin' });

/** What a call is recorded with, as far as it is known by now. */
export function auditedCall({ parent, name }: DescMethod, values: ContextValues): AuditedCall {
  const { subject = '', project = '', role = '' } = values.get(principalKey) ?? {};
  return {
    method: `${parent.typeName}/${name}`,
    subject,
    project,
    role,
    peer: values.get(peerKey),
    requestId: values.get(requestIdKey),
    objects: values.get(streamObjectsKey),
    count: 1,
    message: '',
  };
}
