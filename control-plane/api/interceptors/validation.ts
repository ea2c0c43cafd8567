import type { DescMessage, Message } from '@bufbuild/protobuf';
import type { FieldMask } from '@bufbuild/protobuf/wkt';
import type { Interceptor } from '@connectrpc/connect';
import { type ApplyRequest, ApplyRequestSchema } from '../../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { InvalidError } from '../../domain/errors.ts';
import { type ObjectMessage, ownPart } from '../../domain/object.ts';
import { unreadKey } from '../call.ts';
import type { CheckMessage } from '../message_rules.ts';

const maxManifests = 1000;

/** Holds every request against the rules in its proto file, before anybody looks at it. */
export function validationInterceptor(checkMessage: CheckMessage): Interceptor {
  const check = (schema: DescMessage, message: Message): void => {
    if (schema.typeName === ApplyRequestSchema.typeName) checkApply(message as ApplyRequest);
    else checkMessage(schema, callersPart(schema, message));
  };
  return (next) => (request) => {
    const { input } = request.method;
    if (!request.stream) {
      const unread = request.contextValues.get(unreadKey);
      if (unread) return Promise.reject(unread);
      try {
        check(input, request.message);
      } catch (error) {
        return Promise.reject(error);
      }
      return next(request);
    }
    return next({ ...request, message: checked(request.message, (message) => check(input, message)) });
  };
}

const isMasked = (message: Message & { updateMask?: FieldMask }): boolean =>
  (message.updateMask?.paths.length ?? 0) > 0;

/**
 * What the rules are for. Of a spec that is sent in part, the rest is not missing: the whole is held against the
 * rules once it is put together.
 */
function callersPart(schema: DescMessage, message: Message): Message {
  for (const field of schema.fields) {
    if (field.fieldKind !== 'message' || !field.message.field.spec) continue;
    const object = (message as Message & Record<string, unknown>)[field.localName] as ObjectMessage | undefined;
    if (!object) continue;
    const part = isMasked(message) ? { ...ownPart(object), spec: undefined } : ownPart(object);
    return { ...message, [field.localName]: part } as Message;
  }
  return message;
}

/** Each manifest stands for itself: its own rules are looked at when it is applied, so that one that breaks them does not hold up the others. */
function checkApply({ manifests }: ApplyRequest): void {
  if (manifests.length < 1 || manifests.length > maxManifests) {
    throw new InvalidError('manifests', `must be 1 to ${maxManifests}, and are ${manifests.length}`);
  }
}

async function* checked<T extends Message>(messages: AsyncIterable<T>, check: (message: T) => void): AsyncGenerator<T> {
  for await (const message of messages) {
    check(message);
    yield message;
  }
}
