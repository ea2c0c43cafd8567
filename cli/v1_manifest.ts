import { Document } from 'yaml';
import { CliError, exitStatus } from './errors.ts';
import type { Mapping } from './json.ts';
import { type AnyObject, kindOf, label, metadataOf } from './objects.ts';
import { safeText } from './output/yaml.ts';

/** The kinds that are `v1` manifests to their users. */
export function isKubernetesKind(object: AnyObject): boolean {
  return ['Pod', 'Service', 'ReplicationController'].includes(kindOf(object).name);
}

/**
 * The manifest that a Pod, Service or ReplicationController was made from, in YAML that kubectl and `apply -f` read as it is meant: words that YAML
 * 1.1 takes for something else (`yes`, `0644`) stand in quotes. Throws CliError for other kinds.
 */
export function v1Manifest(object: AnyObject): string {
  const { spec } = object;
  if (!isKubernetesKind(object) || !spec || !('manifest' in spec))
    throw new CliError(`${label(object)} has no v1 manifest: use -o yaml`, exitStatus.usage);
  const { name, namespace, labels, annotations } = metadataOf(object);
  const metadata = Object.fromEntries(
    Object.entries({ name, namespace, labels, annotations, ...spec.metadata }).filter(
      ([, value]) => typeof value !== 'object' || value === null || Object.keys(value).length > 0,
    ),
  );
  const manifest: Mapping = { apiVersion: 'v1', kind: kindOf(object).name, metadata, spec: spec.manifest ?? {} };
  return safeText(new Document(manifest, { aliasDuplicateObjects: false, version: '1.1' }));
}
