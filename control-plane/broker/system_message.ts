/** What the broker says in the system account: JSON, of which nothing is taken for granted. */
export type Fields = Readonly<Record<string, unknown>>;

/** The fields of an object; none when it is not one. */
export const fieldsOf = (value: unknown): Fields =>
  typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {};

/** The fields of a message; none when it is not the JSON of an object. */
export function parseSystemMessage(data: Uint8Array): Fields {
  try {
    return fieldsOf(JSON.parse(new TextDecoder().decode(data)));
  } catch {
    // Not JSON: nothing in it is known.
    return {};
  }
}
