/**
 * The objects of a text in which JSON objects follow each other with nothing between them but space, as `jq` writes them. Any other text is one
 * piece, and what is wrong in it is for the parser to say.
 */
export function splitJson(text: string): string[] {
  if (!/^\s*\{/.test(text)) return [text];
  const pieces: string[] = [];
  let start = 0;
  let depth = 0;
  let inString = false;
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (inString) {
      if (character === '\\') at++;
      else if (character === '"') inString = false;
    } else if (character === '"') inString = true;
    else if (character === '{' || character === '[') depth++;
    else if (character === '}' || character === ']') {
      depth--;
      if (depth > 0) continue;
      const next = /\S/.exec(text.slice(at + 1, at + 1 + 1024))?.[0];
      if (depth < 0 || next !== '{') break;
      if (pieces.length === 0 && !isJson(text.slice(0, at + 1))) break;
      pieces.push(text.slice(start, at + 1));
      start = at + 1;
    }
  }
  return [...pieces, text.slice(start)];
}

/** YAML may look much like it. */
function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
