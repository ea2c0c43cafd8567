import type { DescMethod } from '@bufbuild/protobuf';
import { createContextValues, type Interceptor } from '@connectrpc/connect';
import test from 'ava';
import { BayService } from '../../../proto/gen/baykeeper/v1/bay_service_pb.js';
import { principalKey } from '../call.ts';
import { pagesInterceptor } from './pages.ts';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Calls whose work is ended by hand. */
function fixture(patienceMs = 60_000) {
  const begun: string[] = [];
  const ends: ((error?: Error) => void)[] = [];
  const through = pagesInterceptor({ most: 2, patienceMs })(async (request) => {
    begun.push(request.contextValues.get(principalKey)?.subject ?? '');
    await new Promise<void>((resolve, reject) => ends.push((error) => (error ? reject(error) : resolve())));
    return undefined as never;
  });
  const call = (subject: string, method: DescMethod = BayService.method.listBays, abort = new AbortController()) => {
    const principal = { subject, project: 'red', role: 'reader' } as const;
    const contextValues = createContextValues().set(principalKey, principal);
    const request = { stream: false, method, contextValues, signal: abort.signal };
    return through(request as unknown as Parameters<ReturnType<Interceptor>>[0]);
  };
  return { call, begun, ends };
}

test('a caller waits for its own pages, and not for those of another; what is no page waits for nothing', async (t) => {
  const { call, begun, ends } = fixture();
  const calls = [call('hog'), call('hog'), call('hog'), call('hog')];
  for (const one of calls) one.catch(() => undefined);
  void call('other');
  void call('hog', BayService.method.getBay);
  t.deepEqual(begun, ['hog', 'hog', 'other', 'hog']);
  ends[0]?.();
  await turn();
  t.is(begun.length, 5);
  ends[1]?.(new Error('it failed'));
  await turn();
  t.is(begun.length, 6, 'a failure ends a turn, too');
  for (const end of ends.slice(4)) end();
  await Promise.allSettled(calls);
  void call('hog');
  void call('hog');
  t.is(begun.length, 8);
});

test('a page that nobody waits for any more is not made', async (t) => {
  const { call, begun, ends } = fixture();
  const running = [call('hog'), call('hog')];
  const abort = new AbortController();
  const gone = call('hog', BayService.method.listBays, abort);
  abort.abort();
  for (const end of ends) end();
  await Promise.all(running);
  await t.throwsAsync(gone, { message: /nobody waits/ });
  t.is(begun.length, 2);
  const late = fixture(0);
  const busy = [late.call('hog'), late.call('hog')];
  const third = late.call('hog');
  for (const end of late.ends) end();
  await Promise.all(busy);
  await t.throwsAsync(third, { message: /nobody waits/ });
});
