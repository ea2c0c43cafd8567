import { clone, create } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import type { Command } from 'commander';
import { NodeSchema, NodeSpecSchema } from '../../proto/gen/baykeeper/v1/node_pb.js';
import { NodeService } from '../../proto/gen/baykeeper/v1/node_service_pb.js';
import { hasCode } from '../client.ts';
import { CliError, renderError, SilentExit } from '../errors.ts';
import { kindRow } from '../kinds.ts';
import { named, within } from '../objects.ts';
import { escapeLine } from '../output/escape.ts';
import { type Environment, examples, type Session, withGlobals } from '../session.ts';
import { namesOf } from '../targets.ts';

const kind = kindRow('Node');
const attempts = 5;

interface Verb {
  readonly name: string;
  readonly summary: string;
  act(session: Session, name: string): Promise<string>;
}

const verbs: readonly Verb[] = [
  {
    name: 'cordon',
    summary: 'place no new work on nodes; what runs stays',
    act: (session, name) => setUnschedulable(session, name, true),
  },
  {
    name: 'uncordon',
    summary: 'place new work on nodes again',
    act: (session, name) => setUnschedulable(session, name, false),
  },
  {
    name: 'revoke',
    summary: "end the trust in nodes' agents, at once and for ever; what runs there goes on, out of sight",
    async act(session, name) {
      await session.api.unary(NodeService.method.revokeNode, {
        ...within(kind, session.place, session.settings),
        ...named(name),
      });
      return 'revoked';
    },
  },
];

/** `bayctl node`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent.command('node').description('cordon, uncordon, revoke nodes');
  examples(command, 'bayctl node cordon shop-7 -b edge-1', 'bayctl node revoke shop-7 -b edge-1');
  for (const verb of verbs) {
    const own = command
      .command(verb.name)
      .description(verb.summary)
      .argument('<name...>', 'names, or node/NAME')
      .action(async (words: string[], _flags: unknown, self: Command) => {
        const session = await environment.open(self);
        let status = 0;
        for (const name of namesOf(words, 'Node')) {
          try {
            await session.out(`node/${escapeLine(name)} ${await verb.act(session, name)}\n`);
          } catch (error) {
            const rendered = renderError(error, session.flags.verbose === true);
            status ||= rendered.status;
            await session.err(rendered.text);
          }
        }
        if (status) throw new SilentExit(status);
      });
    examples(withGlobals(own), `bayctl node ${verb.name} shop-7 -b edge-1`);
  }
}

async function setUnschedulable(session: Session, name: string, unschedulable: boolean): Promise<string> {
  const word = unschedulable ? 'cordoned' : 'uncordoned';
  for (let attempt = 1; ; attempt++) {
    const node = await session.objects.get(kind, session.place, name);
    if (node.$typeName !== 'baykeeper.v1.Node') throw new CliError('the server gave something that is not a node');
    if ((node.spec?.unschedulable ?? false) === unschedulable) return `${word} already`;
    const changed = clone(NodeSchema, node);
    changed.spec ??= create(NodeSpecSchema);
    changed.spec.unschedulable = unschedulable;
    try {
      await session.objects.update(changed, ['spec.unschedulable']);
      return word;
    } catch (error) {
      if (!hasCode(error, Code.Aborted) || attempt >= attempts) throw error;
    }
  }
}
