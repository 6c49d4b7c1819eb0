// What takes the place of one experience: [] drops it, several split it. Pure: the same input gives the same output.
//
// An experience: { sourceId, eventType, modality, content, observedAt, recordedAt, author, labels, attributes, precededBy, thread };
// labels are strings, attributes [key, value] pairs. `wit/types.wit` explains each.
export function map({ drop = [] }, experience) {
  if (drop.includes(experience.eventType)) {
    return [];
  }
  return [experience];
}
