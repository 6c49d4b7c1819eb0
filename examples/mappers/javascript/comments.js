// Which comments say nothing. Pure.

// Names that bots have: project and group access tokens of GitLab, and what is given by custom.
const BOT_NAMES = [/^(project|group)_\d+_bot(_[0-9a-f]+)?$/, /[-_.]bot$|\[bot\]$/, /^(dependabot|renovate)/];

// Words that are a reaction when they are all that is said.
const REACTIONS = new Set([
  ...["+1", "-1", "lgtm", "ack", "thanks", "thank you", "thx", "ty", "nice", "cool", "great", "done", "ok", "same here", "me too"],
]);
const EMOJI = /:[+\-\w]+:|[\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}\u200d\ufe0f\u20e3]+/gu;

// A function that knows bots by their usernames; `*` in a name stands for any characters.
export function botsNamed(names) {
  const patterns = [...BOT_NAMES, ...names.map(pattern)];
  return (username) => patterns.some((name) => name.test(username.toLowerCase()));
}

function pattern(name) {
  const escaped = name.toLowerCase().replace(/[.*+?^${}()|[\]\\]/g, (sign) => (sign === "*" ? ".*" : `\\${sign}`));
  return new RegExp(`^${escaped}$`);
}

// The username is in the label `user:<username>`; `author` is a number.
export function username(experience) {
  return experience.labels.find((label) => label.startsWith("user:"))?.slice("user:".length) ?? "";
}

export function isReaction(content) {
  const without = content.replace(EMOJI, " ");
  const words = without.replace(/[\s.,!?]+/g, " ").trim().toLowerCase();
  return words === "" ? without !== content : REACTIONS.has(words);
}
