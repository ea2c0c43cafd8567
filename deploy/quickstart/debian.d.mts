/** `wanted`: names as in debian.mjs. */
export declare function missingDebianPackages(wanted: readonly string[]): Promise<string[]>;
export declare function installDebianPackages(
  packages: readonly string[],
  options: { readonly say: (text: string) => void; readonly logFile: string },
): Promise<void>;
