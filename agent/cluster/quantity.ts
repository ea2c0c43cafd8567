/** Suffixes of Kubernetes' quantities. https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/ */
const factors: Readonly<Record<string, number>> = {
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

/** The number that a quantity is: `500m`, `4039584Ki`, `1e3`. 0 for what is none. */
function quantity(text: string | undefined): number {
  const match = /^([+-]?[\d.]+(?:[eE][+-]?\d+)?)([a-zA-Z]*)$/.exec(text ?? '');
  const factor = factors[match?.[2] ?? '?'];
  const value = Number(match?.[1]) * (factor ?? Number.NaN);
  return Number.isFinite(value) ? value : 0;
}

/** To the thousandth. */
export const cpuCores = (text: string | undefined): number => Math.round(quantity(text) * 1000) / 1000;
export const memoryBytes = (text: string | undefined): number => Math.round(quantity(text));
