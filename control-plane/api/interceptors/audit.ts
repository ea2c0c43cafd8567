import type { DescMethod, Message } from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel } from '@bufbuild/protobuf/wkt';
import {
  Code,
  type Interceptor,
  type StreamRequest,
  type StreamResponse,
  type UnaryRequest,
} from '@connectrpc/connect';
import type { ExecuteResponse } from '../../../proto/gen/baykeeper/v1/container_service_pb.js';
import { EnrollmentService } from '../../../proto/gen/baykeeper/v1/enrollment_service_pb.js';
import type { AuditLog } from '../../audit/port.ts';
import { DeniedError, UnavailableError } from '../../domain/errors.ts';
import { auditedCall, beginKey, streamObjectsKey } from '../audited_call.ts';
import { objectsOf, subjectOf } from '../audited_objects.ts';
import { codeName, toConnectError } from '../connect_error.ts';
import type { Permission } from '../permissions.ts';
import type { Refusals } from '../refusals.ts';
import type { Unread } from '../unreadable.ts';

/** Options of {@link auditInterceptor}. */
export interface AuditOptions {
  readonly audit: AuditLog;
  readonly refusals: Refusals;
  readonly permissionOf: (method: DescMethod) => Permission | undefined;
}

type Call = UnaryRequest | StreamRequest;

/** Refusals that are recorded of every call, also of one that only reads. */
const denials: ReadonlySet<Code> = new Set([Code.Unauthenticated, Code.PermissionDenied, Code.ResourceExhausted]);

/** After these a part of a change may have been made. */
const uncertain: ReadonlySet<Code> = new Set([Code.Unavailable, Code.Internal, Code.Unknown, Code.Canceled]);

/**
 * Records each change before its caller hears of it, and each refused call. While nothing can be recorded nothing is changed. Never what is in a
 * message, but which objects it is about.
 */
export function auditInterceptor({ audit, refusals, permissionOf }: AuditOptions): Interceptor {
  return (next) => {
    const refused = (request: Call, isChange: boolean, error: unknown): void => {
      const { code } = toConnectError(error, () => undefined);
      if (!isChange && !denials.has(code)) return;
      const call = callOf(request);
      // One that has no rights here is no principal, and still somebody.
      const subject = error instanceof DeniedError && error.subject ? error.subject : call.subject;
      const asked = request.stream ? call.objects : objectsOf(request.method, request.message, undefined);
      const objects = isChange ? asked : [];
      const entry = { ...call, kind: 'refused', code: codeName(code), subject, objects } as const;
      // What may have been done by half is recorded as what was done is: not only counted.
      if (uncertain.has(code) && !request.stream && isChange && call.subject !== '') audit.note(entry);
      else refusals.refused(entry);
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
        refused(request, isChange, error);
        throw error;
      }
      if (!isChange || response.stream || isDryRun(request.message)) return response;
      const { method, message } = request;
      const entry = callOf(request);
      const subject = entry.subject || subjectOf(message);
      const objects = objectsOf(method, message, response.message);
      await audit.append({ ...entry, subject, kind: 'change', code: 'ok', objects, message: howOf(message) });
      return response;
    };
  };
}

/** Records a change that was refused before any interceptor saw it, and before it was known who was calling. */
export function unreadRefusals({ refusals, permissionOf }: Pick<AuditOptions, 'refusals' | 'permissionOf'>): Unread {
  return (method, values, code) => {
    if (!changes(method, permissionOf(method))) return;
    refusals.refused({ ...auditedCall(method, values), kind: 'refused', code: codeName(code) });
  };
}

/** Whether a method changes anything, a command in a container among it. */
export function changes({ parent, name, idempotency }: DescMethod, permission: Permission | undefined): boolean {
  if (idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS) return false;
  if (permission === 'member' || permission === 'admin') return true;
  return parent.typeName === EnrollmentService.typeName && name !== EnrollmentService.method.createChallenge.name;
}

const isDryRun = (message: Message & { validateOnly?: boolean }): boolean => message.validateOnly === true;

/** What is dangerous about how it was asked for. */
const howOf = (message: Message & { force?: boolean }): string => (message.force === true ? 'with force' : '');

const callOf = ({ method, contextValues }: Call) => auditedCall(method, contextValues);

/** A command is recorded before it is begun, and once more when it has ended, or was not to be. Of each stream it is kept what it is about. */
async function recordedStream(
  audit: AuditLog,
  next: Parameters<Interceptor>[0],
  request: StreamRequest,
  isChange: boolean,
  refused: (request: Call, isChange: boolean, error: unknown) => void,
): Promise<StreamResponse> {
  const { method, contextValues } = request;
  const message = (async function* () {
    for await (const one of request.message) {
      if (contextValues.get(streamObjectsKey).length === 0) {
        contextValues.set(streamObjectsKey, objectsOf(method, one, undefined));
      }
      yield one;
    }
  })();
  let begun = false;
  contextValues.set(beginKey, async () => {
    await audit.append({ ...callOf(request), kind: 'change', code: 'begun' });
    begun = true;
  });
  let response: StreamResponse;
  try {
    response = (await next({ ...request, message })) as StreamResponse;
  } catch (error) {
    refused(request, isChange, error);
    throw error;
  }
  if (!isChange) return response;
  return {
    ...response,
    message: untilEnd(response.message, {
      refused: (error) => refused(request, isChange, error),
      ended: (outcome) => {
        if (begun) audit.note({ ...callOf(request), kind: 'system', code: 'command_ended', message: outcome });
      },
    }),
  };
}

/** What is answered. An error before any of it is a refusal: nothing was executed, or not for certain. */
async function* untilEnd<T>(
  messages: AsyncIterable<T>,
  { refused, ended }: { readonly refused: (error: unknown) => void; readonly ended: (outcome: string) => void },
): AsyncGenerator<T> {
  let answered = false;
  let outcome: string | undefined = 'its caller went away';
  try {
    for await (const message of messages) {
      answered = true;
      outcome = exitOf(message as ExecuteResponse) ?? outcome;
      yield message;
    }
  } catch (error) {
    outcome = answered ? codeName(toConnectError(error, () => undefined).code) : undefined;
    if (!answered) refused(error);
    throw error;
  } finally {
    if (outcome !== undefined) ended(outcome);
  }
}

const exitOf = ({ output }: ExecuteResponse): string | undefined =>
  output.case === 'exitCode' ? `exit code ${output.value}` : undefined;
