import { type JsonValue, toBinary } from '@bufbuild/protobuf';
import { isMapping } from './json.ts';
import type { Position } from './kubernetes_manifest.ts';
import { joinPath } from './manifest_path.ts';
import { manifestError } from './manifest_yaml.ts';
import { type AnyObject, kindOf, schemaOf } from './objects.ts';

/** What the control plane takes of one object, as protobuf. */
const maxObjectBytes = 512 * 1024;

/** Throws CliError for an object that the control plane would not take, naming the part that makes it so large. */
export function checkSize(object: AnyObject, value: JsonValue, { where, path }: Position): void {
  const { length } = toBinary(schemaOf(kindOf(object).name), object);
  if (length <= maxObjectBytes) return;
  throw manifestError(
    where,
    joinPath(path, largestPart(value)),
    `too large: the object has ${length} bytes, and may have ${maxObjectBytes}; put what is large into the image, or into a volume`,
  );
}

/** The path of the smallest part that has more than half of the whole. */
function largestPart(whole: JsonValue): string {
  const half = JSON.stringify(whole).length / 2;
  let path = '';
  let at = whole;
  for (;;) {
    const parts: [string, JsonValue][] = Array.isArray(at)
      ? at.map((item, index) => [`[${index}]`, item])
      : isMapping(at)
        ? Object.entries(at)
        : [];
    const large = parts.find(([, part]) => JSON.stringify(part).length > half);
    if (!large) return path;
    path = joinPath(path, large[0]);
    [, at] = large;
  }
}
