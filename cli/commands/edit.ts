import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import type { Command } from 'commander';
import { ApiError, hasCode } from '../client.ts';
import { CliError, exitStatus, UsageError } from '../errors.ts';
import { type KindRow, parseSelection } from '../kinds.ts';
import { parseObjects } from '../manifest.ts';
import { parseDocuments } from '../manifest_yaml.ts';
import { type AnyObject, kindOf, label, metadataOf } from '../objects.ts';
import { escapeLine, escapeText } from '../output/escape.ts';
import { sparseJson } from '../output/object_json.ts';
import { yamlText } from '../output/yaml.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';
import { isKubernetesKind, v1Manifest } from '../v1_manifest.ts';

const heading =
  '# Change labels, annotations and spec, save and leave. An empty file, or one unchanged, changes nothing.\n';

/** `bayctl edit`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('edit')
    .description('change an object in your editor (VISUAL, EDITOR, or vi)')
    .argument('<kind>', 'KIND/NAME, or KIND')
    .argument('[name]', 'its name')
    .action(async (kind: string, name: string | undefined, _flags: unknown, self: Command) =>
      edit(await environment.open(self), name === undefined ? [kind] : [kind, name]),
    );
  examples(
    withGlobals(command),
    'bayctl edit container/web -b local',
    'bayctl edit rc/redis -b edge-1',
    'EDITOR=nano bayctl edit bay edge-1',
  );
}

async function edit(session: Session, words: readonly string[]): Promise<void> {
  const [target] = parseSelection(words).targets;
  if (!target) throw new UsageError('say which object: KIND/NAME');
  let original = await session.objects.get(target.kind, session.place, target.name);
  const folder = await mkdtemp(join(tmpdir(), 'bayctl-edit-'));
  const path = join(folder, `${target.kind.singular}-${metadataOf(original).name.replace(/[^a-z0-9.-]/g, '_')}.yaml`);
  const first = editable(original);
  let shown = heading + first;
  let failure: CliError | undefined;
  let keep = false;
  try {
    for (;;) {
      await writeFile(path, shown, { mode: 0o600 });
      await runEditor(session, path);
      const text = await readFile(path, 'utf8');
      const body = withoutComments(text);
      if (body.trim() === '' || body === first) return session.err('Edit cancelled, nothing changed.\n');
      // After a conflict, saving the same text again is a decision; after any other error it would only fail again.
      if (failure && !hasCode(failure, Code.Aborted) && body === withoutComments(shown)) {
        throw new CliError(`nothing changed: ${failure.message}`, failure.exitStatus, { cause: failure });
      }
      try {
        const changed = parseEdited(original, target.kind, text);
        await session.objects.update(changed, editedPaths(original));
        return session.out(`${escapeLine(label(original))} edited\n`);
      } catch (error) {
        if (!(error instanceof CliError) || !mayBeMended(error)) throw error;
        failure = error;
      }
      shown = heading + comment(failure.message) + body;
      if (hasCode(failure, Code.Aborted)) {
        original = await session.objects.get(target.kind, session.place, target.name);
        shown += comment(
          `Somebody else has changed it since. It is now as follows; save again to put yours in its place.`,
        );
        shown += comment(editable(original));
      }
    }
  } catch (error) {
    keep = true;
    await session.err(`bayctl: your text is kept in ${path}\n`);
    throw error;
  } finally {
    if (!keep) await rm(folder, { recursive: true, force: true });
  }
}

/** Whether another text may go through: the text is wrong, or somebody was faster. */
function mayBeMended(error: CliError): boolean {
  return (
    !(error instanceof ApiError) ||
    [Code.InvalidArgument, Code.Aborted, Code.FailedPrecondition, Code.Unimplemented].includes(error.code)
  );
}

/** Of what is a `v1` manifest to its user, `adopt` and the like are not in the text, so they stay. */
function editedPaths(object: AnyObject): readonly string[] {
  const spec = isKubernetesKind(object) ? ['spec.manifest', 'spec.metadata'] : ['spec'];
  return ['metadata.labels', 'metadata.annotations', ...spec];
}

/** What a user can change, and what says which object it is. */
function editable(object: AnyObject): string {
  if (isKubernetesKind(object)) return v1Manifest(object);
  const { apiVersion, kind, spec } = sparseJson(object) as {
    apiVersion: string;
    kind: string;
    spec?: Record<string, never>;
  };
  const { bay, namespace, name, labels, annotations } = metadataOf(object);
  const metadata = Object.fromEntries(
    Object.entries({ bay, namespace, name, labels, annotations }).filter(
      ([, value]) => value !== '' && Object.keys(value).length > 0,
    ),
  );
  return yamlText({ apiVersion, kind, metadata, spec: spec ?? {} });
}

/** The edited object, bound to the one it was made from: its uid, and the etag that makes a later change by others an error. */
function parseEdited(original: AnyObject, kind: KindRow, text: string): AnyObject {
  const documents = parseDocuments('your text', Buffer.from(text));
  const [document] = documents;
  if (!document || documents.length > 1) throw new CliError('expected one document', exitStatus.invalid);
  const changed =
    kind.name === 'Node'
      ? undefined
      : parseObjects(document, { ...metadataOf(original), bayFlag: '', namespaceFlag: '' })[0]?.object;
  if (!changed)
    throw new CliError('a node is changed with `bayctl label`, `bayctl annotate` and `bayctl node`', exitStatus.usage);
  const before = metadataOf(original);
  const after = metadataOf(changed);
  if (kindOf(changed) !== kind) throw new CliError('the kind of an object cannot change', exitStatus.invalid);
  for (const field of ['name', 'bay', 'namespace'] as const) {
    if (after[field] !== before[field] && !(field === 'namespace' && after[field] === '')) {
      throw new CliError(
        `metadata.${field} cannot change from "${before[field]}" to "${after[field]}"`,
        exitStatus.invalid,
      );
    }
  }
  Object.assign(after, { uid: before.uid, etag: before.etag, namespace: before.namespace });
  return changed;
}

async function runEditor(session: Session, path: string): Promise<void> {
  const editor = session.io.env.VISUAL || session.io.env.EDITOR || 'vi';
  // Through the shell, as git does: EDITOR may have arguments. The path is one of its own.
  const child = spawn('sh', ['-c', `${editor} "$1"`, 'sh', path], { stdio: 'inherit' });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', resolve);
  });
  if (status !== 0)
    throw new CliError(`the editor (${editor}) ended with status ${status ?? 'unknown'}; nothing changed`);
}

function withoutComments(text: string): string {
  return text
    .split('\n')
    .filter((line) => !line.startsWith('#'))
    .join('\n');
}

function comment(text: string): string {
  return escapeText(text)
    .trimEnd()
    .split('\n')
    .map((line) => `# ${line}\n`)
    .join('');
}
