import path from 'node:path';
import type { ControlPlane } from './control_plane.ts';
import { type Outcome, type RunOptions, root, run } from './program.ts';

/** The launcher, as a user types it. */
export const bayctlPath = path.join(root, 'cli', 'bayctl');

/** Environment in which bayctl speaks to this control plane, and sees nothing of the machine's own settings. */
export function bayctlEnvironment(
  controlPlane: Pick<ControlPlane, 'url' | 'token' | 'dataDir'>,
): Record<string, string> {
  return {
    BAYKEEPER_SERVER: controlPlane.url,
    BAYKEEPER_TOKEN: controlPlane.token,
    BAYKEEPER_HOME: path.join(controlPlane.dataDir, 'no-home'),
    BAYCTL_CONFIG: path.join(controlPlane.dataDir, 'no-config.yaml'),
    NO_COLOR: '1',
  };
}

/** Runs `bayctl ARGS…` to its end. */
export function bayctl(
  controlPlane: Pick<ControlPlane, 'url' | 'token' | 'dataDir'>,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Outcome> {
  const env = { ...bayctlEnvironment(controlPlane), ...options.env };
  return run([bayctlPath, ...args], { ...options, env });
}
