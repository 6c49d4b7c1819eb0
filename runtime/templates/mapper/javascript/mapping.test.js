import assert from "node:assert/strict";
import { test } from "node:test";
import { map } from "./mapping.js";

const issue = {
  sourceId: "gl:issue:42/7",
  eventType: "issue",
  modality: "document",
  content: "Title\n\nText",
  observedAt: "2026-11-22T10:00:00Z",
  recordedAt: null,
  author: "user:17",
  labels: ["gitlab", "issue", "user:ada"],
  attributes: [["state", "opened"]],
  precededBy: [],
  thread: null,
};

test("only what is named is left out", () => {
  const settings = { drop: ["pipeline"] };
  assert.deepEqual(map(settings, { ...issue, eventType: "pipeline" }), []);
  assert.deepEqual(map(settings, issue), [issue]);
});
