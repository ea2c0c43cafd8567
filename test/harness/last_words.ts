/** What runs for a test, by what says its output so far. */
const speakers = new Map<object, Speaker>();

export interface Speaker {
  readonly name: string;
  /** Its output, or the end of it. */
  output(): string;
}

const lines = 12;
const lineChars = 300;

/** From now on until `endWords`, what this says last is part of `lastWords`. */
export function hasWords(key: object, speaker: Speaker): void {
  speakers.set(key, speaker);
}

export function endWords(key: object): void {
  speakers.delete(key);
}

/** The last lines of all that runs for a test, and of what ended by itself: whoever reads of a failure has nothing else of them. */
export function lastWords(): string {
  return [...speakers.values()]
    .map(({ name, output }) => {
      const said = output().trimEnd().split('\n').slice(-lines);
      return [`--- ${name}:`, ...said.map((line) => line.slice(0, lineChars))].join('\n');
    })
    .join('\n');
}
