import { setImmediate } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import {
  type ApplyError,
  ApplyErrorSchema,
  ApplyOutcome,
  type ApplyResult,
  ApplyResultSchema,
  type Manifest,
  ManifestSchema,
  type ManifestService,
} from '../../proto/gen/baykeeper/v1/manifest_service_pb.js';
import { InvalidError } from '../domain/errors.ts';
import { type KindName, kinds } from '../domain/kinds.ts';
import { fieldName, ownPart } from '../domain/object.ts';
import type { Principal } from '../domain/principal.ts';
import { principalOf } from './call.ts';
import { toConnectError } from './connect_error.ts';
import { DryRun } from './dry_run.ts';
import type { CheckMessage } from './message_rules.ts';
import type { Outcome } from './object_writes.ts';
import type { Objects } from './objects.ts';
import { noRequestId } from './request_id.ts';

/** What applying manifests needs. */
export interface ManifestOptions {
  readonly objects: Objects;
  /** Holds a message against the rules in the proto files. Throws InvalidError. */
  readonly checkMessage: CheckMessage;
  /** Takes what nobody expected. */
  readonly onUnexpected: (error: unknown) => void;
}

type AppliedKind = Exclude<KindName, 'Node'>;
const kindOfCase: Readonly<Record<NonNullable<Manifest['object']['case']>, AppliedKind>> = {
  bayModel: 'BayModel',
  bay: 'Bay',
  pod: 'Pod',
  service: 'Service',
  replicationController: 'ReplicationController',
  container: 'Container',
};

const outcomes: Readonly<Record<Outcome, ApplyOutcome>> = {
  created: ApplyOutcome.CREATED,
  configured: ApplyOutcome.CONFIGURED,
  unchanged: ApplyOutcome.UNCHANGED,
};

/** How many manifests are looked at before others have their turn; the first ones are on their way to disk and to agents meanwhile. */
const slice = { first: 25, next: 100 };

/** Many manifests in one call. All writes are under way at once, so that they share commits. */
export function manifestMethods(options: ManifestOptions): ServiceImpl<typeof ManifestService> {
  return {
    async apply(request, context) {
      const principal = principalOf(context);
      const results: ApplyResult[] = new Array(request.manifests.length);
      const dryRun = request.validateOnly ? new DryRun() : undefined;
      // BayModels first, then bays, then what is in them: each may need those before it.
      for (const group of [['bayModel'], ['bay'], undefined]) {
        const under: Promise<void>[] = [];
        let turn = slice.first;
        for (const [i, manifest] of request.manifests.entries()) {
          const which = manifest.object.case ?? '';
          if (group ? !group.includes(which) : which === 'bayModel' || which === 'bay') continue;
          if (under.length === turn) {
            turn += slice.next;
            await setImmediate();
          }
          under.push(
            applyOne(options, principal, manifest, dryRun).then((result) => {
              results[i] = result;
            }),
          );
        }
        await Promise.all(under);
      }
      return { results };
    },
  };
}

async function applyOne(
  options: ManifestOptions,
  principal: Principal,
  { object: given }: Manifest,
  dryRun: DryRun | undefined,
): Promise<ApplyResult> {
  try {
    if (given.case === undefined) throw new InvalidError('object', 'is required: what to make');
    const kind = kindOfCase[given.case];
    // A status is not the caller's, and ignored.
    options.checkMessage(kinds[kind].schema, ownPart(given.value), fieldName[kind]);
    const { object, outcome, verdict } = await options.objects.update<AppliedKind>(principal, kind, given.value, {
      allowMissing: true,
      validateOnly: dryRun !== undefined,
      dryRun,
      request: noRequestId,
    });
    const manifest = create(ManifestSchema, { object: { case: given.case, value: object } as Manifest['object'] });
    return create(ApplyResultSchema, {
      outcome: outcomes[outcome],
      manifest,
      live: verdict?.live,
      merged: verdict?.merged,
    });
  } catch (error) {
    return create(ApplyResultSchema, { outcome: ApplyOutcome.REFUSED, error: applyError(error, options.onUnexpected) });
  }
}

function applyError(error: unknown, onUnexpected: (error: unknown) => void): ApplyError {
  const { code, rawMessage } = toConnectError(error, onUnexpected);
  return create(ApplyErrorSchema, {
    code,
    message: rawMessage,
    field: error instanceof InvalidError ? error.field : '',
  });
}
