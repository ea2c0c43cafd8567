import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import test from 'ava';
import { checkoutLink, linkBayctl, linkForCheckout } from '../deploy/quickstart/links.mjs';
import { temporaryFolder } from './harness/temporary_folder.ts';

/** A folder that looks like a checkout of the package of this name. */
function checkout(folder: string, name: string): string {
  mkdirSync(path.join(folder, 'cli'), { recursive: true });
  writeFileSync(path.join(folder, 'cli', 'bayctl'), '#!/bin/sh\n');
  writeFileSync(path.join(folder, 'package.json'), JSON.stringify({ name }));
  return folder;
}

test('bayctl is linked where nothing is, and where another checkout, or one that is gone, has linked it', async (t) => {
  await using folder = await temporaryFolder('links');
  const one = checkout(path.join(folder.path, 'one'), 'baykeeper');
  const two = checkout(path.join(folder.path, 'two'), 'baykeeper');
  const file = path.join(folder.path, 'bin', 'bayctl');
  t.is(linkBayctl(one, file), 'linked');
  t.is(readlinkSync(file), `${one}/cli/bayctl`);
  t.is(linkBayctl(one, file), 'there');
  t.is(linkBayctl(two, file), 'linked');
  t.is(readlinkSync(file), `${two}/cli/bayctl`);
  t.deepEqual(readdirSync(path.dirname(file)), ['bayctl'], 'nothing is left beside it');

  const dangling = path.join(folder.path, 'dangling');
  symlinkSync(path.join(folder.path, 'gone', 'cli', 'bayctl'), dangling);
  t.is(linkBayctl(one, dangling), 'linked');
  t.is(readlinkSync(dangling), `${one}/cli/bayctl`);
});

test('what is not ours is left alone', async (t) => {
  await using folder = await temporaryFolder('links');
  const ours = checkout(path.join(folder.path, 'ours'), 'baykeeper');
  const other = checkout(path.join(folder.path, 'other'), 'bay-cutlery');
  const at = (name: string) => path.join(folder.path, name);

  writeFileSync(at('file'), 'mine');
  t.is(linkBayctl(ours, at('file')), 'foreign');
  t.is(readFileSync(at('file'), 'utf8'), 'mine');
  mkdirSync(at('directory'));
  t.is(linkBayctl(ours, at('directory')), 'foreign');
  t.true(lstatSync(at('directory')).isDirectory());
  for (const target of [path.join(other, 'cli', 'bayctl'), at('file'), at('nowhere')]) {
    const link = at(`link-${path.basename(target)}`);
    symlinkSync(target, link);
    t.is(linkBayctl(ours, link), 'foreign');
    t.is(readlinkSync(link), target);
  }
  t.is(linkBayctl(ours, path.join(at('file'), 'bayctl')), 'denied');
});

test('the link of a checkout survives that the checkout is moved', async (t) => {
  await using folder = await temporaryFolder('links');
  const root = checkout(path.join(folder.path, 'root'), 'baykeeper');
  t.is(linkForCheckout(root), 'linked');
  t.is(readlinkSync(checkoutLink(root)), '../../cli/bayctl');
  t.true(existsSync(checkoutLink(root)));
  t.is(linkForCheckout(root), 'there');
});
