import type { DescMethod, Message } from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel } from '@bufbuild/protobuf/wkt';
import {
  Code,
  type Interceptor,
  type StreamRequest,
  type StreamResponse,
  type UnaryRequest,
} from '@connectrpc/connect';
import { EnrollmentService } from '../../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import type { AuditLog } from '../../audit/port.ts';
import { UnavailableError } from '../../domain/errors.ts';
import { auditedCall, streamObjectsKey } from '../audited_call.ts';
import { objectsOf, subjectOf } from '../audited_objects.ts';
import { codeName, toConnectError } from '../connect_error.ts';
import type { Permission } from '../permissions.ts';
import type { Refusals } from '../refusals.ts';

/** Options of {@link auditInterceptor}. */
export interface AuditOptions {
  readonly audit: AuditLog;
  readonly refusals: Refusals;
  readonly permissionOf: (method: DescMethod) => Permission | undefined;
}

type Call = UnaryRequest | StreamRequest;

/** Refusals that are recorded of every call, also of one that only reads. */
const denials: ReadonlySet<Code> = new Set([Code.Unauthenticated, Code.PermissionDenied, Code.ResourceExhausted]);

/**
 * Records each change before its caller hears of it, and each refused call. While nothing can be recorded nothing is changed. Never what is in a
 * message, but which objects it is about.
 */
export function auditInterceptor({ audit, refusals, permissionOf }: AuditOptions): Interceptor {
  return (next) => {
    const refused = (request: Call, isChange: boolean, error: unknown, message?: Message): void => {
      const { code } = toConnectError(error, () => undefined);
      if (!isChange && !denials.has(code)) return;
      const objects = isChange ? objectsOf(request.method, message, undefined) : [];
      refusals.refused({ ...callOf(request), kind: 'refused', code: codeName(code), objects });
    };
    return async (request) => {
      const isChange = changes(request.method, permissionOf(request.method));
      if (isChange && audit.problem !== undefined) {
        throw new UnavailableError(`nothing is changed while the audit log cannot be written: ${audit.problem}`);
      }
      if (request.stream) return await recordedStream(audit, next, request, isChange, refused);
      let response: Awaited<ReturnType<typeof next>>;
      try {
        response = await next(request);
      } catch (error) {
        refused(request, isChange, error, request.message);
        throw error;
      }
      if (!isChange || response.stream || isDryRun(request.message)) return response;
      const { method, message } = request;
      const entry = callOf(request);
      const subject = entry.subject || subjectOf(message);
      const objects = objectsOf(method, message, response.message);
      await audit.append({ ...entry, subject, kind: 'change', code: 'ok', objects });
      return response;
    };
  };
}

/** Whether a method changes anything, a command in a container among it. */
export function changes({ parent, name, idempotency }: DescMethod, permission: Permission | undefined): boolean {
  if (idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS) return false;
  if (permission === 'member' || permission === 'admin') return true;
  return parent.typeName === EnrollmentService.typeName && name !== EnrollmentService.method.createChallenge.name;
}

const isDryRun = (message: Message & { validateOnly?: boolean }): boolean => message.validateOnly === true;

const callOf = ({ method, contextValues }: Call) => auditedCall(method, contextValues);

/** A command is recorded when it is asked for, by somebody who may: before it is begun. Of each stream it is kept what it is about. */
async function recordedStream(
  audit: AuditLog,
  next: Parameters<Interceptor>[0],
  request: StreamRequest,
  isChange: boolean,
  refused: (request: Call, isChange: boolean, error: unknown) => void,
): Promise<StreamResponse> {
  let begun = false;
  const message = (async function* () {
    for await (const one of request.message) {
      if (!begun) {
        begun = true;
        request.contextValues.set(streamObjectsKey, objectsOf(request.method, one, undefined));
        if (isChange) await audit.append({ ...callOf(request), kind: 'change', code: 'begun' });
      }
      yield one;
    }
  })();
  try {
    const response = await next({ ...request, message });
    return response as StreamResponse;
  } catch (error) {
    if (!begun || !isChange) refused(request, isChange, error);
    throw error;
  }
}
