import { lstatSync, mkdirSync, readFileSync, readlinkSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';

/** Where a program is put for everybody on the machine. */
export const machineLink = '/usr/local/bin/bayctl';

/** What npx looks for in a checkout. npm makes such links for the packages that it installs only. */
export const checkoutLink = (root) => path.join(root, 'node_modules', '.bin', 'bayctl');

/** Links bayctl for `npx bayctl` in this checkout. Says what linkBayctl says. */
export const linkForCheckout = (root) => linkBayctl(root, checkoutLink(root), path.join('..', '..', 'cli', 'bayctl'));

/**
 * Makes `file` a link to the bayctl of the checkout `root`, unless it is there and not ours: ours is a link to the cli/bayctl of some
 * checkout, also of one that is gone. `target`: what is written into the link, default the absolute path.
 *
 * Returns `linked`, `there` (nothing had to be done), `foreign` (left alone) or `denied` (nothing could be made there).
 */
export function linkBayctl(root, file, target = path.join(root, 'cli', 'bayctl')) {
  try {
    const stats = lstatSync(file, { throwIfNoEntry: false });
    if (stats && !stats.isSymbolicLink()) return 'foreign';
    if (stats) {
      const now = readlinkSync(file);
      if (now === target) return 'there';
      if (!isOfCheckout(path.resolve(path.dirname(file), now))) return 'foreign';
    }
    mkdirSync(path.dirname(file), { recursive: true });
    // In one step: whoever types bayctl meanwhile finds the old one or the new one.
    const temporary = `${file}.${process.pid}`;
    try {
      symlinkSync(target, temporary);
      renameSync(temporary, file);
    } finally {
      rmSync(temporary, { force: true });
    }
    return 'linked';
  } catch (error) {
    // A convenience: whoever may not have it types the whole path.
    if (['EACCES', 'EPERM', 'EROFS', 'ENOSPC', 'ENOTDIR', 'EEXIST'].includes(error.code)) return 'denied';
    throw error;
  }
}

function isOfCheckout(target) {
  if (!target.endsWith('/cli/bayctl')) return false;
  try {
    return JSON.parse(readFileSync(path.join(target, '..', '..', 'package.json'), 'utf8')).name === 'baykeeper';
  } catch (error) {
    // The checkout has been moved or removed.
    return error.code === 'ENOENT';
  }
}
