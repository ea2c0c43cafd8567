import type { DescMessage } from '@bufbuild/protobuf';
import test from 'ava';
import { kinds } from '../domain/kinds.ts';
import { fieldName } from '../domain/object.ts';
import { kindNames, kindServices } from './kind_services.ts';

/** The fields that one implementation for all kinds counts on. */
const inputs = {
  create: ['request_id', 'validate_only'],
  get: ['name', 'uid'],
  list: ['page_size', 'page_token', 'filter', 'order_by'],
  update: ['update_mask', 'allow_missing', 'request_id', 'validate_only'],
  delete: ['name', 'uid', 'etag', 'allow_missing', 'force', 'validate_only'],
  watch: ['filter', 'since_revision', 'name'],
} as const;

for (const kind of kindNames) {
  test(`the messages of ${kind} have the fields that all kinds have`, (t) => {
    const { scope, schema } = kinds[kind];
    const has = (message: DescMessage, names: readonly string[]) => {
      for (const name of names)
        t.true(
          message.fields.some((field) => field.name === name),
          `${message.name}.${name}`,
        );
    };
    has(schema, ['metadata', 'spec', 'status']);
    for (const [verb, fields] of Object.entries(inputs)) {
      const many = verb === 'list' || verb === 'watch';
      const method = kindServices[kind].methods.find(
        ({ localName }) => localName === `${verb}${kind}${many ? 's' : ''}`,
      );
      if (!method) {
        t.fail(`${kind} has no ${verb}`);
        continue;
      }
      has(method.input, fields);
      const one = [fieldName[kind]];
      if (verb === 'create' || verb === 'update') has(method.input, one);
      else if (scope !== 'project') has(method.input, scope === 'namespace' ? ['bay', 'namespace'] : ['bay']);
      has(method.output, verb === 'list' ? [`${fieldName[kind]}s`, 'next_page_token', 'revision'] : one);
      if (verb === 'watch') has(method.output, ['type', 'revision']);
    }
  });
}
