import test from 'ava';
import { connectionError, statusError } from './errors.ts';

const status = (code: number, reason: string, message: string, details: object = {}) =>
  statusError({
    status: code,
    headers: {},
    body: JSON.stringify({ kind: 'Status', status: 'Failure', code, reason, message, details }),
    plural: 'pods',
  });

test('what the cluster says has a kind, and keeps its words', (t) => {
  for (const [code, reason, message, details, kind, retryable] of [
    [401, 'Unauthorized', 'Unauthorized', {}, 'unauthorized', false],
    [403, 'Forbidden', 'pods is forbidden: User "a" cannot list resource "pods"', {}, 'forbidden', false],
    [403, 'Forbidden', 'pods "a" is forbidden: exceeded quota: q', {}, 'admission-denied', false],
    [
      403,
      'Forbidden',
      'pods "a" is forbidden: error looking up service account n/default: serviceaccount "default" not found',
      {},
      'admission-denied',
      true,
    ],
    [
      403,
      'Forbidden',
      'pods "a" is forbidden: unable to create new content in namespace x because it is being terminated',
      {
        causes: [
          { reason: 'NamespaceTerminating', message: 'namespace x is being terminated', field: 'metadata.namespace' },
        ],
      },
      'namespace-terminating',
      true,
    ],
    [400, '', 'admission webhook "w.example" denied the request: no', {}, 'admission-denied', false],
    [
      500,
      'InternalError',
      'Internal error occurred: failed calling webhook "w": timeout',
      {},
      'admission-denied',
      true,
    ],
    [404, 'NotFound', 'pods "a" not found', { kind: 'pods', name: 'a' }, 'not-found', false],
    [404, 'NotFound', 'namespaces "x" not found', { kind: 'namespaces', name: 'x' }, 'namespace-not-found', false],
    [409, 'AlreadyExists', 'pods "a" already exists', {}, 'already-exists', false],
    [409, 'Conflict', 'the object has been modified', {}, 'conflict', true],
    [
      409,
      'Conflict',
      'Apply failed with 1 conflict',
      { causes: [{ reason: 'FieldManagerConflict', message: 'conflict with "kubectl"', field: '.spec.replicas' }] },
      'conflict',
      false,
    ],
    [410, 'Expired', 'too old resource version: 1 (2)', {}, 'gone', true],
    [422, 'Invalid', 'Pod "a" is invalid', {}, 'invalid', false],
    [400, 'BadRequest', 'Pod in version "v1" cannot be handled', {}, 'invalid', false],
    [500, '', ' failed to create typed patch object: .spec.foo: field not declared in schema', {}, 'invalid', false],
    [429, 'TooManyRequests', 'slow down', {}, 'throttled', true],
    [504, 'Timeout', 'request did not complete', {}, 'timeout', true],
    [500, 'InternalError', 'etcdserver: leader changed', {}, 'unavailable', true],
    [503, 'ServiceUnavailable', 'apiserver is shutting down', {}, 'unavailable', true],
  ] as const) {
    const error = status(code, reason, message, details);
    t.like(error, { kind, retryable, status: code, reason, message: message.trim() }, message);
  }
});

test('a namespace that is not there is not found when it is what was asked for', (t) => {
  const body = JSON.stringify({ kind: 'Status', message: 'namespaces "x" not found', details: { kind: 'namespaces' } });
  t.is(statusError({ status: 404, headers: {}, body, plural: 'namespaces' }).kind, 'not-found');
});

test('details are passed on: causes, and how long to wait', (t) => {
  const error = status(422, 'Invalid', 'invalid', {
    causes: [{ reason: 'FieldValueRequired', message: 'Required value', field: 'spec.containers' }, { field: 'a' }],
    retryAfterSeconds: 3,
  });
  t.deepEqual(error.causes, [
    { reason: 'FieldValueRequired', message: 'Required value', field: 'spec.containers' },
    { reason: '', message: '', field: 'a' },
  ]);
  t.is(error.retryAfterMs, 3_000);
});

test('what is no Status is told by its code, in its own words', (t) => {
  const error = statusError({
    status: 429,
    headers: { 'retry-after': '1' },
    body: 'Too many requests, please try again later.\n',
  });
  t.like(error, { kind: 'throttled', message: 'Too many requests, please try again later.', retryAfterMs: 1_000 });
  const proxy = statusError({ status: 502, headers: {}, body: `<html><b>Bad</b> gateway ${'x'.repeat(9_000)}</html>` });
  t.is(proxy.kind, 'unavailable');
  t.regex(proxy.message, /^Bad gateway x+…$/);
  t.is(statusError({ status: 418, headers: {}, body: '' }).message, 'the API server answered 418');
});

test('a connection that cannot be made says where to and why', (t) => {
  const refused = Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:1'), { code: 'ECONNREFUSED' });
  t.like(connectionError(refused, 'a:1'), {
    kind: 'unavailable',
    status: undefined,
    message: 'the API server at a:1 is away (connect ECONNREFUSED 127.0.0.1:1)',
  });
  const expired = Object.assign(new Error('certificate has expired'), { code: 'CERT_HAS_EXPIRED' });
  t.like(connectionError(expired, 'a:1'), { kind: 'unavailable', reason: 'Certificate' });
});
