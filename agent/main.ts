#!/usr/bin/env node
import { isLean, runLean } from './process/lean.ts';

// The agent at work does without its command line, which it was started with.
if (isLean()) await runLean();
else await (await import('./cli.ts')).main();
