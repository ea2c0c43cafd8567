/**
 * Names and messages come from elsewhere, and a terminal obeys what it is sent. So control characters, and those that turn the direction
 * of text, are shown and not sent.
 */
const hostile = /[\p{Cc}\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu;
const hostileButLines = /(?![\n\t])[\p{Cc}\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu;

const short: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\x1b': '\\e' };

function show(character: string): string {
  const code = character.charCodeAt(0);
  return (
    short[character] ??
    (code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16).padStart(4, '0')}`)
  );
}

/** For text that stays on one line. */
export function escapeLine(text: string): string {
  return text.replace(hostile, show);
}

/** For text that may have several lines: newlines and tabs stay. */
export function escapeText(text: string): string {
  return text.replace(hostileButLines, show);
}

/** For what stands in quotes in JSON and YAML, where `\u0000` has the same meaning in both. */
export function escapeQuoted(text: string): string {
  return text.replace(hostileButLines, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Whether `escapeLine` would change it. */
export function isHostile(text: string): boolean {
  return text.search(hostile) >= 0;
}
