/** Certificates one after another, each with its line end. */
export const pem = (certificates: readonly string[]): string => certificates.map((one) => `${one.trim()}\n`).join('');
