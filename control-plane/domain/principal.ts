/** Who is calling, and what for. Every query goes through the project. */
export interface Principal {
  readonly subject: string;
  readonly project: string;
  readonly role: 'admin' | 'member' | 'reader';
}
