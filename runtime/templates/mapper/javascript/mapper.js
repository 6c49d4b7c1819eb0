// The mapper {{name}}: what the host calls. The work is in mapping.js.

import { log } from "cortexdb:connector/log@0.1.0";
import { map } from "./mapping.js";

// What the user may choose: `--mapper-config FILE.json`, checked against this schema before `apply` is called.
const SETTINGS_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  additionalProperties: false,
  properties: {
    drop: { type: "array", items: { type: "string" }, default: [], description: "Kinds of record to leave out, such as pipeline." },
  },
};

export const transform = {
  describe() {
    return {
      name: "{{name}}",
      version: "0.1.0",
      summary: "Leaves out the kinds of record that are named.",
      settingsSchema: JSON.stringify(SETTINGS_SCHEMA),
    };
  },

  // One answer for each experience, in the same order.
  apply(settings, batch) {
    const chosen = JSON.parse(settings);
    return batch.map((experience) => {
      try {
        return { tag: "ok", val: map(chosen, experience) };
      } catch (error) {
        // One record that cannot be mapped becomes a dead letter with these words; the run goes on.
        log("warn", String(error), [["record", experience.sourceId]]);
        return { tag: "err", val: String(error) };
      }
    });
  },
};
