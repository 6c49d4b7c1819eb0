// A feed, read: RSS 2.0, RSS 1.0 and Atom 1.0. Pure; text in, entries out.

// { title, site, entries: [{ id, title, text, link, time, author, categories }] }, or null if it is no feed.
export function readFeed(xml) {
  const root = parse(xml).find((node) => ["rss", "rdf:RDF", "feed"].includes(node.name));
  if (!root) return null;
  const channel = child(root, "channel") ?? root;
  // RSS 1.0 has its items beside the channel.
  const entries = [...channel.children, ...(channel === root ? [] : root.children)].filter((node) => node.name === "item" || node.name === "entry");
  return { title: text(child(channel, "title")), site: hostOf(link(channel)), entries: entries.map(entry).filter((entry) => entry.id) };
}

function entry(node) {
  const address = link(node);
  const title = plain(text(child(node, "title")));
  const body = child(node, "content:encoded", "content", "description", "summary");
  const time = text(child(node, "pubDate", "published", "dc:date", "updated"));
  return {
    id: text(child(node, "guid", "id")) || node.attributes["rdf:about"] || address || title,
    title,
    text: body?.attributes.type === "xhtml" ? plain(body.inner) : body?.attributes.type === "text" ? text(body) : plain(text(body)),
    link: address,
    time: isoTime(time),
    author: text(child(child(node, "author"), "name") ?? child(node, "dc:creator", "author")),
    categories: node.children.filter((node) => node.name === "category").map((node) => node.attributes.term ?? text(node)),
  };
}

function link(node) {
  const links = node.children.filter((node) => node.name === "link");
  const page = links.find((node) => (node.attributes.rel ?? "alternate") === "alternate");
  return page ? (page.attributes.href ?? text(page)) : "";
}

function isoTime(time) {
  const parsed = Date.parse(time);
  return Number.isNaN(parsed) ? null : new Date(parsed).toISOString();
}

function hostOf(address) {
  return /^https?:\/\/(?:[^/?#@]*@)?([^/?#:]+)/i.exec(address)?.[1].toLowerCase() ?? "";
}

// XML without a schema, as tolerantly as feeds need it: what is not closed ends with its parent.
function parse(xml) {
  const root = { name: "", attributes: {}, children: [] };
  const open = [root];
  for (const match of xml.matchAll(/<!--[^]*?-->|<!\[CDATA\[[^]*?\]\]>|<[?!][^>]*>|<(\/?)([\w:.-]+)((?:[^>"']|"[^"]*"|'[^']*')*?)(\/?)>/g)) {
    const [tag, closing, name, attributes, empty] = match;
    if (!name) continue;
    if (!closing) {
      const node = { name, attributes: readAttributes(attributes), children: [], inner: "", start: match.index + tag.length };
      open.at(-1).children.push(node);
      if (!empty) open.push(node);
    } else if (open.some((node) => node.name === name)) {
      let node;
      do {
        node = open.pop();
        node.inner = xml.slice(node.start, match.index);
      } while (node.name !== name);
    }
  }
  return root.children;
}

function readAttributes(text) {
  const pairs = text.matchAll(/([\w:.-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')/g);
  return Object.fromEntries([...pairs].map(([, name, double, single]) => [name, decode(double ?? single)]));
}

function child(node, ...names) {
  return names.map((name) => node?.children.find((child) => child.name === name)).find((found) => found);
}

// The text of an element: CDATA as it is, tags left out, entities decoded.
function text(node) {
  const parts = (node?.inner ?? "").split(/<!\[CDATA\[([^]*?)\]\]>/);
  return parts.map((part, index) => (index % 2 ? part : decode(part.replace(/<[^>]*>/g, "")))).join("").trim();
}

// HTML as a person reads it.
export function plain(html) {
  return decode(
    html
      .replace(/<(script|style)\b[^]*?<\/\1\s*>|<!--[^]*?-->/gi, "")
      .replace(/\s+/g, " ")
      .replace(/<li\b[^>]*>/gi, "\n- ")
      .replace(/<(br|\/li|\/tr|\/?ul|\/?ol)\b[^>]*>/gi, "\n")
      .replace(/<\/?(p|div|h[1-6]|blockquote|pre|table|article|section|figure)\b[^>]*>/gi, "\n\n")
      .replace(/<[a-z!\/][^>]*>/gi, ""),
  )
    .replace(/[ \t\u00a0]*\n[ \t\u00a0]*/g, "\n")
    .replace(/\n{3,}/g, "\n\n")
    .trim();
}

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", hellip: "…", mdash: "—", ndash: "–" };
Object.assign(ENTITIES, { lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", laquo: "«", raquo: "»", copy: "©", euro: "€" });

function decode(text) {
  return text.replace(/&(?:#x([0-9a-f]{1,6})|#(\d{1,7})|(\w+));/gi, (whole, hex, decimal, name) => {
    if (name) return ENTITIES[name] ?? whole;
    const code = hex ? Number.parseInt(hex, 16) : Number(decimal);
    return code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff) ? String.fromCodePoint(code) : whole;
  });
}
