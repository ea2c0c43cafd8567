/** How our objects are told from everybody else's in a cluster: by labels, and never by name. */
export const label = {
  /** Uid of our object. */
  uid: 'baykeeper.io/uid',
  /** Uid of its bay. */
  bay: 'baykeeper.io/bay',
  /** On a namespace that an agent made: uid of the bay that it was made for. */
  createdBy: 'baykeeper.io/created-by',
} as const;

/** Annotation: hash of what was applied. */
export const appliedAnnotation = 'baykeeper.io/applied';

/** Annotation: of a pod whose end had to be finished by a write. */
export const endedAnnotation = 'baykeeper.io/ended';

const keptPrefix = 'kept.baykeeper.io/';

/** Annotation of a Lease of the bay: what a service that is being replaced is to have again. */
export const keptAnnotationOf = (objectUid: string): string => `${keptPrefix}${objectUid}`;
export const keptUidOf = (annotation: string): string | undefined =>
  annotation.startsWith(keptPrefix) ? annotation.slice(keptPrefix.length) : undefined;

/** Selects what bears a bay's label. */
export const baySelector = (bayUid: string): string => `${label.bay}=${bayUid}`;
