import type { ScalarTag, Tags } from 'yaml';

/**
 * How kubectl understands plain words in YAML: as YAML 1.1, without its numbers to base 60 and its dates
 * (https://github.com/yaml/go-yaml, v2). A manifest must mean the same here: `defaultMode: 0644` is 420 and not 644, and `value: yes` is
 * the boolean that the cluster will refuse, and not a string that it would take.
 */
export function kubernetesTags(core: Tags): Tags {
  const replaced = new Set(['bool', 'int', 'float', 'timestamp'].map((name) => `tag:yaml.org,2002:${name}`));
  return [
    ...core.filter((tag) => typeof tag === 'string' || !replaced.has(tag.tag)),
    yes,
    no,
    integer,
    special,
    decimal,
  ];
}

const yes: ScalarTag = {
  tag: 'tag:yaml.org,2002:bool',
  default: true,
  test: /^(?:y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON)$/,
  resolve: () => true,
};

const no: ScalarTag = {
  tag: 'tag:yaml.org,2002:bool',
  default: true,
  test: /^(?:n|N|no|No|NO|false|False|FALSE|off|Off|OFF)$/,
  resolve: () => false,
};

const integer: ScalarTag = {
  tag: 'tag:yaml.org,2002:int',
  default: true,
  // Of digits that begin with 0, those that are not octal are a decimal number: 08 is 8.
  test: /^[-+]?(?:0[bB][01_]+|0[xX][0-9a-fA-F_]+|0[oO]?[0-7_]+|[1-9][0-9_]*|0)$/,
  resolve(text, onError) {
    const digits = text.replace(/^[-+]/, '').replaceAll('_', '');
    const prefix = /^0[0-7]/.test(digits) ? `0o${digits.slice(1)}` : digits;
    const value = Number(prefix) * (text.startsWith('-') ? -1 : 1);
    // A manifest travels as JSON, whose numbers are exact up to 2^53.
    if (!Number.isSafeInteger(value)) onError(`${text} is a whole number too large to be kept exactly`);
    return value;
  },
};

const special: ScalarTag = {
  tag: 'tag:yaml.org,2002:float',
  default: true,
  test: /^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$/,
  resolve: (text) => (/nan$/i.test(text) ? Number.NaN : text.startsWith('-') ? -Infinity : Infinity),
};

const decimal: ScalarTag = {
  tag: 'tag:yaml.org,2002:float',
  default: true,
  test: /^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$/,
  resolve(text, onError) {
    const value = Number(text.replaceAll('_', ''));
    if (Number.isInteger(value) && !Number.isSafeInteger(value) && !/[.eE]/.test(text))
      onError(`${text} is a whole number too large to be kept exactly`);
    return value;
  },
};
