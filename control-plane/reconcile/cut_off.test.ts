import test from 'ava';
import { type AuditEntry, nobody } from '../audit/port.ts';
import { UnavailableError } from '../domain/errors.ts';
import { endingStreams } from './cut_off.ts';

const node = {
  uid: 'n',
  name: 'shop-7',
  bayUid: 'b',
  bay: 'edge',
  project: 'red',
  publicKey: 'UNODE',
  schedulable: true,
  deleting: false,
};

function fixture(streams: number) {
  const notes: AuditEntry[] = [];
  const broker = { away: false, revoked: [] as string[] };
  const open = Array.from({ length: streams }, (_, i) => ({ ...nobody, method: 'a/Logs', requestId: String(i) }));
  const access = endingStreams({
    access: {
      urls: [],
      issue: () => Promise.reject(new Error('nobody asks')),
      revoke: async (keys) => {
        if (broker.away) throw new UnavailableError('the broker cannot be reached');
        broker.revoked.push(...keys);
      },
      onConnection: () => () => undefined,
    },
    inventory: {
      node: (uid) => (uid === node.uid ? node : undefined),
      nodeOfKey: (key) => (key === 'UNODE' ? 'n' : undefined),
    },
    streams: { end: () => open.splice(0) },
    connections: { count: () => 1 },
    audit: { note: (entry) => void notes.push(entry) },
  });
  const told = () =>
    notes
      .splice(0)
      .map(({ code, count, message, objects }) => `${code} ${count} ${objects[0]?.name ?? '-'}: ${message}`);
  return { access, broker, told };
}

test('while the broker is away streams end all the same, and what is tried again is not recorded again', async (t) => {
  const { access, broker, told } = fixture(1);
  broker.away = true;
  await t.throwsAsync(access.revoke(['UNODE']), { instanceOf: UnavailableError });
  t.deepEqual(told(), [
    'stream_ended 1 -: node "shop-7" was cut off',
    'cut_off 1 shop-7: its agent was cut off: the broker could not be told yet, and 1 open stream through it ended',
  ]);
  await t.throwsAsync(access.revoke(['UNODE']));
  t.deepEqual(told(), []);
  broker.away = false;
  await access.revoke(['UNODE', 'UNKNOWN']);
  t.deepEqual(broker.revoked, ['UNODE', 'UNKNOWN']);
  t.deepEqual(told(), [
    'cut_off 1 shop-7: its agent was cut off: the broker has closed 1 connection, and 0 open streams through it ended',
  ]);
});

test('many streams are named up to a point, and counted beyond', async (t) => {
  const { access, told } = fixture(250);
  await access.revoke(['UNODE']);
  const lines = told();
  t.is(lines.length, 102);
  t.is(lines[100], 'stream_ended 150 -: node "shop-7" was cut off');
});
