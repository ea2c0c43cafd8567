#!/usr/bin/env node
import { enableCompileCache } from 'node:module';
import { homedir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import type { Io } from './io.ts';
import { onReaderGone } from './reader_gone.ts';

enableCompileCache(process.env.NODE_COMPILE_CACHE ?? join(homedir(), '.cache', 'baykeeper', 'bayctl'));

const undos = new Set<() => void>();
const ending = new AbortController();

function undoAll(): void {
  for (const undo of [...undos].reverse()) undo();
  undos.clear();
}

// At once, whatever is under way: what is half done on the server is there to be looked at, and is not ours to wait for.
for (const [signal, status] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  process.on(signal, () => {
    undoAll();
    process.exit(status);
  });
}
process.on('exit', undoAll);

// Who reads has gone, as `head` does: there is nobody to tell.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    process.exit(error.code === 'EPIPE' ? 0 : 1);
  });
}

const io: Io = {
  get stdin() {
    return process.stdin;
  },
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  home: homedir(),
  nowMs: Date.now,
  signal: ending.signal,
  atExit(undo) {
    undos.add(undo);
    return () => undos.delete(undo);
  },
  endWithReader() {
    undos.add(onReaderGone(() => process.exit(0)));
  },
};

const { run } = await import('./program.ts');
const status = await run(process.argv.slice(2), io);
process.stdout.write('', () => process.stderr.write('', () => process.exit(status)));
