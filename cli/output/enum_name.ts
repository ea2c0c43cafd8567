import type { DescEnum } from '@bufbuild/protobuf';

/** The short name of an enum's value: RUNNING for CONTAINER_PHASE_RUNNING. A value that this program does not know is its number; 0 is empty. */
export function enumName(desc: DescEnum, value: number): string {
  if (value === 0) return '';
  const name = desc.value[value]?.name;
  return name === undefined ? String(value) : shortEnumName(desc, name);
}

/** Takes the enum's own name away from a value's. */
export function shortEnumName(desc: DescEnum, name: string): string {
  const prefix = `${desc.name.replace(/([a-z0-9])([A-Z])/g, '$1_$2').toUpperCase()}_`;
  return name.startsWith(prefix) ? name.slice(prefix.length) : name;
}
