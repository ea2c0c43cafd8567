import { KubernetesDriver } from '../../agent/drivers/kubernetes/driver.ts';

/**
 * A program that stands for election with its arguments, KUBECONFIG, LEASE, IDENTITY and TIMES (JSON), says "leads" or "follows" whenever that
 * changes, each with the time, and lets go at SIGTERM.
 */
const [, , kubeconfig = '', name = '', identity = '', times = '{}'] = process.argv;
const driver = new KubernetesDriver({ kubeconfig, context: '' });
const say = (words: string) => process.stdout.write(`${Date.now()} ${identity} ${words}\n`);
const election = driver.elect({
  namespace: 'kube-system',
  name,
  identity,
  ...JSON.parse(times),
  onChange: (leads) => say(leads ? 'leads' : 'follows'),
  onProblem: (error) => say(error ? `problem ${error.kind}` : 'well'),
});
say('stands');
const awake = setInterval(() => undefined, 1_000);
process.once('SIGTERM', async () => {
  await election.stop();
  driver.close();
  clearInterval(awake);
});
