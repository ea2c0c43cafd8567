/** What became of a link: made, there already, left alone because it is not ours, or not possible. */
export type Linked = 'linked' | 'there' | 'foreign' | 'denied';
export declare const machineLink: string;
export declare function checkoutLink(root: string): string;
export declare function linkForCheckout(root: string): Linked;
export declare function linkBayctl(root: string, file: string, target?: string): Linked;
