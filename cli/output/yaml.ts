import type { JsonValue } from '@bufbuild/protobuf';
import { Document, isScalar, visit } from 'yaml';
import { escapeQuoted, isHostile } from './escape.ts';

/** YAML 1.2 with what could steer a terminal escaped. Ends in a newline. */
export function yamlText(value: JsonValue): string {
  return safeText(new Document(value, { aliasDuplicateObjects: false }));
}

/** The text of a document, with what could steer a terminal escaped. Ends in a newline. */
export function safeText(document: Document): string {
  visit(document, {
    Scalar(_key, node) {
      if (isScalar(node) && typeof node.value === 'string' && isHostile(node.value.replace(/[\n\t]/g, ''))) {
        node.type = 'QUOTE_DOUBLE';
      }
    },
  });
  return escapeQuoted(document.toString({ lineWidth: 0 }));
}
