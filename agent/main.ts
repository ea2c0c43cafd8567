#!/usr/bin/env node
import { hasStage, runStage } from './process/lean.ts';

// The agent at work does without its command line, which it was started with.
if (hasStage()) await runStage();
else await (await import('./cli.ts')).main();
