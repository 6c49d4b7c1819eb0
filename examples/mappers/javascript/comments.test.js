import assert from "node:assert/strict";
import { test } from "node:test";
import { botsNamed, isReaction, username } from "./comments.js";

test("a reaction is an emoji or a word of assent and nothing else", () => {
  for (const content of ["👍", "👍🏽 :tada:", ":+1:", "+1", "LGTM!", " Thanks. ", "🇫🇮", "thank you 🙏"]) {
    assert.ok(isReaction(content), content);
  }
  for (const content of ["", "???", "#3", "Thanks, but no", "see :file: a.rs", "1", "🎉 released in 1.2"]) {
    assert.ok(!isReaction(content), content);
  }
});

test("bots are known by their name, or named by the user", () => {
  const isBot = botsNamed(["danger-*", "CI.Reporter"]);
  for (const name of ["project_42_bot_0a1b2c", "group_7_bot", "gitlab-bot", "renovate[bot]", "dependabot-gitlab", "danger-service", "ci.reporter"]) {
    assert.ok(isBot(name), name);
  }
  for (const name of ["", "ada", "robot", "abbot", "ciXreporter", "botany", "dangerous"]) {
    assert.ok(!isBot(name), name);
  }
});

test("the username is a label", () => {
  assert.equal(username({ labels: ["gitlab", "note", "user:ada"] }), "ada");
  assert.equal(username({ labels: ["gitlab"] }), "");
});
