/** Under this name the cluster keeps which fields are ours. It must never change: fields of an old name would stay behind, owned by nobody. */
export const fieldManager = 'baykeeper';
