import type { Io, OutputStream } from '../io.ts';

/** Paints a word; the word itself where there is no colour. */
export type Paint = (text: string) => string;
/** The colours in use. */
export interface Palette {
  readonly good: Paint;
  readonly busy: Paint;
  readonly bad: Paint;
  readonly dim: Paint;
  readonly bold: Paint;
}

const plain: Paint = (text) => text;
const none: Palette = { good: plain, busy: plain, bad: plain, dim: plain, bold: plain };
const ansi =
  (open: number, close: number): Paint =>
  (text) =>
    text ? `\x1b[${open}m${text}\x1b[${close}m` : text;
const colours: Palette = {
  good: ansi(32, 39),
  busy: ansi(33, 39),
  bad: ansi(31, 39),
  dim: ansi(2, 22),
  bold: ansi(1, 22),
};

/** Colours only on a terminal that has them, and not where NO_COLOR (https://no-color.org) is set. */
export function palette(io: Io, stream: OutputStream): Palette {
  return stream.isTTY && !io.env.NO_COLOR && io.env.TERM !== 'dumb' ? colours : none;
}

/** Words for pods that are on their way. */
const underWay =
  /^(Pending|ContainerCreating|PodInitializing|Terminating|Unknown|NotReady|SchedulingGated|Init:\d+\/\d+)$/;

/** The colour of a phase, by its short name; or of kubectl's word for a pod. */
export function phasePaint(colour: Palette, phase: string): Paint {
  switch (phase) {
    case 'RUNNING':
    case 'READY':
    case 'SUCCEEDED':
    case 'Running':
    case 'Completed':
    case 'Succeeded':
      return colour.good;
    case 'FAILED':
    case 'NOT_READY':
    case 'REVOKED':
    case 'DELETED':
      return colour.bad;
    case 'STOPPED':
      return colour.dim;
    default:
      return /[a-z]/.test(phase) && !underWay.test(phase) ? colour.bad : colour.busy;
  }
}
