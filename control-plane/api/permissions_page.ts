import process from 'node:process';
import { type Permission, permissions } from './permissions.ts';

const columns: readonly Permission[] = ['open', 'reader', 'member', 'admin'];

/** The table of permissions as a page in Markdown: `deploy/permissions.md`. */
export function permissionsPage(): string {
  const rows = permissions.flatMap(({ service, methods }) =>
    [...methods].map(([name, needed]) => [
      `${service.typeName}/${name}`,
      ...columns.map((column) => (columns.indexOf(column) >= columns.indexOf(needed) ? 'yes' : '')),
    ]),
  );
  const titles = ['method', 'nobody', 'reader', 'member', 'admin'];
  const widths = titles.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |\n`;
  const rule = line(widths.map((width) => '-'.repeat(width)));
  return `${head}\n${line(titles)}${rule}${rows.map(line).join('')}`;
}

const head = `# Who may call what

Made from \`control-plane/api/permissions.ts\`, which is what the control plane goes by; a test holds the two together. Make it anew with
\`node control-plane/api/permissions_page.ts > deploy/permissions.md\`.

- **nobody**: no token is needed. The method itself looks at what it is given: a join token, or a proof that a node has its key.
- **reader** and **member** have their role in one project, and see and change nothing of another: what is there is NOT_FOUND to them.
- **admin** has all projects: the header \`x-baykeeper-project\` says which one a call is for, and \`-\` asks all of them at once, in calls that a reader may
  make. A name then finds the only object that has it, and is refused where several have it. Without the header a call is for the admin's own.

A BayModel that an admin has made public is read by every project, and changed by its own project and admins.

A method that is not in the table is denied to everybody. Without a token the answer is UNAUTHENTICATED, without the role it is PERMISSION_DENIED.
`;

if (import.meta.main) process.stdout.write(permissionsPage());
