// The component: which feeds to ask, where to go on, and what an entry means to CortexDB.

import http from "cortexdb:connector/http@0.1.0";
import log from "cortexdb:connector/log@0.1.0";
import state from "cortexdb:connector/state@0.1.0";
import writer from "cortexdb:connector/writer@0.1.0";
import { readFeed } from "./parsing.js";

const SETTINGS_SCHEMA = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  additionalProperties: false,
  properties: {
    paths: {
      type: "array",
      items: { type: "string", pattern: "^/" },
      default: ["/feed.xml"],
      "x-env": "FEED_PATHS",
      description: "The feeds, each as its path below the address of the site: /feed.xml, /news?format=rss.",
    },
  },
};

export const source = {
  describe: () => ({
    name: "feed",
    version: "0.1.0",
    summary: "Entries of RSS and Atom feeds.",
    eventTypes: ["entry"],
    settingsSchema: JSON.stringify(SETTINGS_SCHEMA),
    defaultUrl: null,
    authentication: [{ tag: "bearer" }, { tag: "anonymous" }],
    permissions: [],
    scopeVariables: ["site", "path"],
    defaultScopeTemplate: "org:<org>/source:feed/project:{site}",
  }),

  check: (context) => reporting(() => fetchAll(context, () => []).map(([path, answer]) => finding(path, answer))),

  sync: (context) => reporting(() => sync(context)),
};

function sync(context) {
  const options = Object.fromEntries(context.options);
  const whole = options.reconcile === "true" || options.verify === "true" || context.since !== null;
  const answers = fetchAll(context, (path) => (whole ? [] : conditions(readCursor(path))));
  const problems = [];
  for (const [path, answer] of answers) {
    log.streamStatus(path, { tag: "reading" });
    const problem = problemOf(answer);
    if (problem) {
      problems.push({ ...problem, val: `${path}: ${problem.val}` });
      log.streamStatus(path, { tag: "failed", val: problem.val });
      continue;
    }
    if (answer.val.status !== 304) {
      readOne(path, answer.val, context, options.verify === "true");
    }
    log.streamStatus(path, { tag: "complete" });
  }
  if (problems.length > 0) {
    // What is wrong with every feed is wrong with the configuration or the credentials; with some, the others were read nevertheless.
    const [{ tag }] = problems;
    const same = problems.length === answers.length && problems.every((problem) => problem.tag === tag);
    throw { tag: same ? tag : "unavailable", val: problems.map(({ val }) => val).join("; ") };
  }
}

function readOne(path, response, context, verify) {
  const feed = readFeed(bodyOf(response));
  const cursor = readCursor(path);
  // The site is part of every source id, so it stays what it was at first even where the feed changes its links.
  const site = cursor.site ?? (feed.site || "feed");
  const seen = new Set();
  const records = [];
  for (const entry of feed.entries) {
    const record = toExperience(entry, site, context.now);
    if (seen.has(record.sourceId)) continue;
    seen.add(record.sourceId);
    if (record.content === "") writer.skip(path, "blank-entry", 1);
    else if (!context.since || cursor.site || !entry.time || Date.parse(entry.time) >= Date.parse(context.since)) records.push(record);
  }
  const origin = { id: digest(site + path), variables: [["site", site], ["path", path]] };
  if (verify) return compare(path, origin, records);
  records.sort((a, b) => Date.parse(a.observedAt) - Date.parse(b.observedAt));
  writer.write(path, origin, records);
  log.progress(path, records.length, null);
  const header = (name) => response.headers.find(([key]) => key === name)?.[1];
  state.set(path, JSON.stringify({ site, etag: header("etag"), last_modified: header("last-modified") }));
}

function toExperience(entry, site, now) {
  const label = (key, value) => (value ? [`${key}:${value.replace(/\s+/g, " ")}`] : []);
  return {
    sourceId: `feed:entry:${site}/${digest(entry.id)}`,
    eventType: "entry",
    modality: "document",
    content: [entry.title, entry.text].filter((part) => part).join("\n\n"),
    observedAt: entry.time ?? now,
    recordedAt: null,
    author: null,
    labels: ["feed", "entry", ...label("author", entry.author), ...[...new Set(entry.categories)].sort().flatMap((category) => label("category", category))],
    attributes: entry.link ? [["link", entry.link]] : [],
    precededBy: [],
    thread: null,
  };
}

// A feed shows its newest entries only: one that is no longer in it is neither gone nor missing.
function compare(path, origin, records) {
  // Nothing to write, but the host has to know which origin this is about.
  writer.write(path, origin, []);
  writer.listed(path, "entry", records.map((record) => record.sourceId), true);
  for (let after = null, held; (held = writer.unlisted(path, "entry", after)).length > 0; after = held.at(-1).sourceId) {
    writer.listed(path, "entry", held.map((record) => record.sourceId), false);
  }
}

// All requests at once; the answers in the order of the paths.
function fetchAll(context, headersFor) {
  const paths = [...new Set(JSON.parse(context.settings).paths ?? SETTINGS_SCHEMA.properties.paths.default)];
  const tickets = new Map(paths.map((path) => [String(submit(path, headersFor(path))), path]));
  const answers = new Map();
  for (let finished; (finished = http.next()) !== null; ) {
    answers.set(tickets.get(String(finished[0])), finished[1]);
  }
  return paths.map((path) => [path, answers.get(path)]);
}

function submit(path, headers) {
  const [place, query = ""] = path.split("?");
  const pairs = query.split("&").filter((pair) => pair).map((pair) => pair.split("=").map(decodeURIComponent));
  return http.submit({
    method: "get",
    path: place,
    query: pairs.map(([name, value = ""]) => [name, value]),
    headers: [["accept", "application/atom+xml, application/rss+xml, application/xml;q=0.9, */*;q=0.1"], ...headers],
    body: null,
    expect: "any",
    onTimeout: "retry",
    delayMs: 0,
    options: [],
  });
}

function problemOf(answer) {
  if (answer.tag === "err") {
    const { tag, val } = answer.val;
    return { tag: tag === "interrupted" ? tag : tag === "denied" ? "configuration" : "unavailable", val: `${val ?? tag}` };
  }
  const { status } = answer.val;
  if (status === 401 || status === 403) return { tag: "standing", val: `the site answers ${status}; if it wants a token, set FEED_TOKEN` };
  if (status === 304) return null;
  if (status !== 200) return { tag: "configuration", val: `the site answers ${status}; FEED_URL is its address, FEED_PATHS the place of the feed` };
  return readFeed(bodyOf(answer.val)) ? null : { tag: "configuration", val: "this is neither RSS nor Atom; look for its feed" };
}

function finding(path, answer) {
  const problem = problemOf(answer);
  if (problem) return { severity: "problem", subject: path, message: problem.val, remedy: null };
  const { title, entries } = readFeed(bodyOf(answer.val));
  return { severity: "ok", subject: path, message: `${title || "a feed without a title"}, ${entries.length} entries`, remedy: null };
}

// What is not UTF-8 is taken for Latin-1, as old feeds are.
function bodyOf({ body }) {
  return body.tag === "text" ? body.val : Array.from(body.val, (byte) => String.fromCharCode(byte)).join("");
}

function readCursor(path) {
  try {
    const { site, etag, last_modified } = JSON.parse(state.get(path) ?? "{}");
    return { site: typeof site === "string" && site ? site : undefined, etag, last_modified };
  } catch {
    return {};
  }
}

function conditions({ etag, last_modified }) {
  return [["if-none-match", etag], ["if-modified-since", last_modified]].filter(([, value]) => typeof value === "string");
}

// FNV-1a, 64 bits: ids of entries are long, and may hold what a source id may not.
function digest(text) {
  let hash = 0xcbf29ce484222325n;
  for (let at = 0; at < text.length; at += 1) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(text.charCodeAt(at))) * 0x100000001b3n);
  }
  return hash.toString(16).padStart(16, "0");
}

// What is thrown is a `failure` of the contract, or a defect of ours: that one is told in its own words.
function reporting(work) {
  try {
    return work();
  } catch (failure) {
    if (failure?.tag === "stopped") throw { tag: "interrupted" };
    throw failure instanceof Error || !failure?.tag ? { tag: "internal", val: `${failure} ${failure?.stack ?? ""}` } : failure;
  }
}
