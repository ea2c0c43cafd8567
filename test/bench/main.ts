import process from 'node:process';
import Table from 'cli-table3';
import { creates, manifests } from './api.ts';
import { delivery } from './delivery.ts';
import { identity } from './identity.ts';
import { kubernetes } from './kubernetes.ts';
import { machine, type Row } from './measure.ts';
import { etcd } from './peer.ts';
import { signatures } from './signatures.ts';
import { storm } from './storm.ts';
import { walls } from './walls.ts';

/**
 * Measures Baykeeper on this machine, with its load generator on the same cores: `npm run bench [-- creates identity manifests delivery signatures storm walls kubernetes etcd]`. Nothing here is a
 * test; what was to be reached stands beside what was measured.
 */
const suites: Record<string, () => Promise<Row[]>> = {
  creates,
  identity,
  manifests,
  delivery,
  signatures,
  storm,
  walls,
  kubernetes,
  etcd,
};

const names = process.argv.slice(2);
const unknown = names.find((name) => !(name in suites));
if (unknown !== undefined) {
  console.error(`Error: there is no suite ${unknown}: expected ${Object.keys(suites).join(', ')}.`);
  process.exit(2);
}
const table = new Table({ head: ['what', 'measured', 'to reach'], style: { head: [], border: [] } });
for (const [name, suite] of Object.entries(suites)) {
  if (names.length > 0 && !names.includes(name)) continue;
  console.error(`measuring ${name} …`);
  for (const { what, measured, target } of await suite()) table.push([what, measured, target]);
}
console.log(await machine());
console.log(table.toString());
