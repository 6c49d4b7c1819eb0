// The component: what the host calls.

import { log } from "cortexdb:connector/log@0.1.0";
import { botsNamed, isReaction, username } from "./comments.js";

const SETTINGS_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  additionalProperties: false,
  properties: {
    bots: {
      type: "array",
      items: { type: "string", minLength: 1 },
      default: [],
      description: "Usernames whose comments are dropped, beside those that look like a bot's. `*` stands for any characters.",
    },
    drop_reactions: {
      type: "boolean",
      default: true,
      description: "Also drop comments that are only an emoji, a thumb or an LGTM.",
    },
  },
};

export const transform = {
  describe() {
    return {
      name: "quiet",
      version: "0.1.0",
      summary: "Drops the comments of bots, and comments that are only a reaction.",
      settingsSchema: JSON.stringify(SETTINGS_SCHEMA),
    };
  },

  apply(settings, batch) {
    const { bots = [], drop_reactions: dropReactions = true } = JSON.parse(settings);
    const isBot = botsNamed(bots);
    let dropped = 0;
    const answers = batch.map((experience) => {
      const drop = experience.eventType === "note" && (isBot(username(experience)) || (dropReactions && isReaction(experience.content)));
      dropped += drop ? 1 : 0;
      return { tag: "ok", val: drop ? [] : [experience] };
    });
    if (dropped > 0) {
      log("debug", "comments dropped", [["count", String(dropped)]]);
    }
    return answers;
  },
};
