export declare const root: string;
/** Runs `main`; a SetupError becomes its sentence on stderr and exit code 1. */
export declare function runMain(main: () => Promise<number>): Promise<void>;
