export declare function cacheFolder(root: string): string;
