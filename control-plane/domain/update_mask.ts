import { clearField, clone, create, type DescMessage, isFieldSet, type Message } from '@bufbuild/protobuf';
import type { FieldMask } from '@bufbuild/protobuf/wkt';
import { InvalidError } from './errors.ts';
import { type KindName, kinds } from './kinds.ts';
import { metadataOf, type ObjectMessage } from './object.ts';

/** What an update speaks of when it does not say. */
const everything = ['metadata.labels', 'metadata.annotations', 'spec'];

/**
 * A copy of `current` with the parts that the mask names taken from `input`: what `input` leaves out there becomes empty. An empty mask, and
 * `*`, mean labels, annotations and the whole spec. Throws InvalidError for a path that does not exist or is not for users to write.
 */
export function applyUpdateMask(
  kind: KindName,
  current: ObjectMessage,
  input: ObjectMessage,
  mask: FieldMask | undefined,
): ObjectMessage {
  const paths = mask && mask.paths.length > 0 ? mask.paths : everything;
  const next = clone(kinds[kind].schema, current) as ObjectMessage;
  for (const path of paths.includes('*') ? [...everything, ...paths.filter((path) => path !== '*')] : paths) {
    if (path === 'metadata.labels') metadataOf(kind, next).labels = { ...input.metadata?.labels };
    else if (path === 'metadata.annotations') metadataOf(kind, next).annotations = { ...input.metadata?.annotations };
    else if (path === 'spec' || path.startsWith('spec.')) take(kinds[kind].schema, next, input, path);
    else {
      throw new InvalidError(
        'update_mask',
        `"${path}" cannot be updated: only metadata.labels, metadata.annotations, spec and paths in it can`,
      );
    }
  }
  return next;
}

/** Copies one path. What is a list or a map is taken whole. */
function take(schema: DescMessage, target: Message, source: Message, path: string): void {
  const steps = path.split('.');
  let desc = schema;
  let to = target as Message & Record<string, unknown>;
  let from: (Message & Record<string, unknown>) | undefined = source as Message & Record<string, unknown>;
  for (const [i, step] of steps.entries()) {
    const field = desc.fields.find((candidate) => candidate.name === step);
    if (!field) throw new InvalidError('update_mask', `there is no field "${steps.slice(0, i + 1).join('.')}"`);
    if (i === steps.length - 1) {
      // What is taken is the request's own, used by nobody else, so it need not be copied.
      if (from && isFieldSet(from, field)) to[field.localName] = from[field.localName];
      else clearField(to, field);
      return;
    }
    if (field.fieldKind !== 'message' || field.message.typeName.startsWith('google.protobuf.')) {
      throw new InvalidError('update_mask', `"${steps.slice(0, i + 1).join('.')}" can only be updated as a whole`);
    }
    desc = field.message;
    from = from?.[field.localName] as typeof from;
    to[field.localName] ??= create(desc);
    to = to[field.localName] as typeof to;
  }
}
