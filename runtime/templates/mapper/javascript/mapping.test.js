import assert from "node:assert/strict";
import { test } from "node:test";
import { map } from "./mapping.js";

test("only what is named is left out", () => {
  const settings = { drop: ["pipeline"] };
  assert.deepEqual(map(settings, { eventType: "pipeline" }), []);
  assert.deepEqual(map(settings, { eventType: "issue" }), [{ eventType: "issue" }]);
});
