import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Role } from '../../domain/principal.ts';
import { duration } from '../../option_values.ts';

/** Which OpenID provider says who is calling, and how. */
export interface OidcConfig {
  /** As it is in the tokens. */
  readonly issuer: string;
  /** Whom the tokens have to be for: one of these. */
  readonly audiences: readonly string[];
  readonly clockSkewMs: number;
  readonly claims: ClaimConfig;
}

/** What the claims of a token mean. */
export interface ClaimConfig {
  readonly subject: string;
  /** Of the project. A token without it is of `defaultProject`. */
  readonly project: string;
  readonly defaultProject: string | undefined;
  /** Of the roles: a text, or a list of them. Dots lead into what is inside a claim. */
  readonly roles: string;
  /** What is in that claim, and which of our roles it is. */
  readonly roleNames: Readonly<Record<string, Role>>;
}

/** Adds the options of OpenID Connect. */
export function addOidcOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--oidc-issuer <url>', 'let in whom this OpenID provider has given a signed token (JWT)')
        .env('BAYKEEPER_OIDC_ISSUER')
        .argParser(issuerUrl),
    )
    .addOption(
      new Option(
        '--oidc-audience <names>',
        'with --oidc-issuer: whom the tokens have to be for; several with commas',
      ).env('BAYKEEPER_OIDC_AUDIENCE'),
    )
    .addOption(
      new Option('--oidc-clock-skew <duration>', 'how far the clocks of provider and control plane may be apart')
        .env('BAYKEEPER_OIDC_CLOCK_SKEW')
        .argParser(duration('the clock skew', 0, 300_000))
        .default(30_000, '30s'),
    )
    .addOption(
      new Option('--oidc-subject-claim <name>', 'the claim that says who it is')
        .env('BAYKEEPER_OIDC_SUBJECT_CLAIM')
        .default('sub'),
    )
    .addOption(
      new Option('--oidc-project-claim <name>', 'the claim that says which project')
        .env('BAYKEEPER_OIDC_PROJECT_CLAIM')
        .default('project'),
    )
    .addOption(
      new Option(
        '--oidc-default-project <name>',
        'the project of tokens without that claim (default: they are refused)',
      ).env('BAYKEEPER_OIDC_DEFAULT_PROJECT'),
    )
    .addOption(
      new Option('--oidc-role-claim <name>', 'the claim with the roles; dots lead inside: realm_access.roles')
        .env('BAYKEEPER_OIDC_ROLE_CLAIM')
        .default('roles'),
    )
    .addOption(
      new Option('--oidc-roles <list>', 'what in that claim is which role, as platform=admin,devs=member')
        .env('BAYKEEPER_OIDC_ROLES')
        .argParser(roleNames)
        .default({ admin: 'admin', member: 'member', reader: 'reader' }, 'admin=admin,member=member,reader=reader'),
    );
}

interface OidcFlags {
  readonly oidcIssuer?: string;
  readonly oidcAudience?: string;
  readonly oidcClockSkew: number;
  readonly oidcSubjectClaim: string;
  readonly oidcProjectClaim: string;
  readonly oidcDefaultProject?: string;
  readonly oidcRoleClaim: string;
  readonly oidcRoles: Readonly<Record<string, Role>>;
}

/** Reads them back, once the command line is parsed. Undefined: no provider. */
export function readOidcOptions(command: Command): OidcConfig | undefined {
  const flags = command.opts<OidcFlags>();
  const audiences = (flags.oidcAudience ?? '').split(',').filter(Boolean);
  if (flags.oidcIssuer === undefined) {
    if (audiences.length > 0) command.error('error: --oidc-audience goes with --oidc-issuer');
    return undefined;
  }
  if (audiences.length === 0) {
    command.error('error: --oidc-issuer needs --oidc-audience: tokens that were given for others let nobody in');
  }
  return Object.freeze({
    issuer: flags.oidcIssuer,
    audiences,
    clockSkewMs: flags.oidcClockSkew,
    claims: {
      subject: flags.oidcSubjectClaim,
      project: flags.oidcProjectClaim,
      defaultProject: flags.oidcDefaultProject,
      roles: flags.oidcRoleClaim,
      roleNames: flags.oidcRoles,
    },
  });
}

function issuerUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const loopback = url?.protocol === 'http:' && ['localhost', '127.0.0.1', '[::1]'].includes(url.hostname);
  if (!url || (url.protocol !== 'https:' && !loopback) || url.search || url.hash) {
    throw new InvalidArgumentError('expected an https:// address (http:// on this machine alone).');
  }
  return text;
}

function roleNames(text: string): Readonly<Record<string, Role>> {
  const names: [string, Role][] = [];
  for (const part of text.split(',')) {
    const match = /^([^=]+)=(admin|member|reader)$/.exec(part.trim());
    if (!match?.[1]) throw new InvalidArgumentError('expected names and roles, as platform=admin,devs=member.');
    names.push([match[1], match[2] as Role]);
  }
  return Object.fromEntries(names);
}
