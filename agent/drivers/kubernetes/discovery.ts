import type { V1APIGroupList } from '@kubernetes/client-node/dist/gen/models/V1APIGroupList.js';
import type { V1APIResourceList } from '@kubernetes/client-node/dist/gen/models/V1APIResourceList.js';
import type { CallOptions, ResourceType } from '../cluster_driver.ts';
import type { ApiClient } from './http.ts';

/** See ClusterDriver.namespacedTypes. */
export async function discoverNamespacedTypes(client: ApiClient, options: CallOptions): Promise<ResourceType[]> {
  const read = <T>(path: string) => client.request<T>({ method: 'GET', path, ...options });
  const { groups } = await read<V1APIGroupList>('/apis');
  // Other versions of a group hold the same objects.
  const preferred = groups.flatMap(({ preferredVersion, versions }) => preferredVersion ?? versions[0] ?? []);
  const places = [
    { apiVersion: 'v1', path: '/api/v1' },
    ...preferred.map(({ groupVersion }) => ({ apiVersion: groupVersion, path: `/apis/${groupVersion}` })),
  ];
  const lists = await Promise.all(
    places.map(async ({ apiVersion, path }) => {
      const { resources } = await read<V1APIResourceList>(path);
      return resources
        .filter(({ name, namespaced, verbs }) => namespaced && verbs.includes('list') && !name.includes('/'))
        .map(({ kind, name }): ResourceType => ({ apiVersion, kind, plural: name, namespaced: true }));
    }),
  );
  return lists.flat();
}
