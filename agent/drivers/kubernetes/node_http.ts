/**
 * Node.js' own HTTP client, but not by `import`: that reads all that a module exports, and `WebSocket` of `node:http` loads another client for it,
 * undici, which is 8 MB.
 */
export const http = process.getBuiltinModule('node:http');
export const https = process.getBuiltinModule('node:https');
