import assert from "node:assert/strict";
import { test } from "node:test";
import { plain, readFeed } from "./parsing.js";

test("an Atom feed", () => {
  const feed = readFeed(`<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Blog</title>
    <link rel="self" href="https://blog.example.org/feed.xml"/><link href="https://Blog.example.org/"/>
    <entry><id>tag:1</id><title type="html">A &amp;lt;b&amp;gt; c</title><link href="https://blog.example.org/1?a=1&amp;b=2"/>
      <published>2026-01-02T03:04:05+01:00</published><updated>2026-02-02T03:04:05Z</updated><author><name>Ada</name></author>
      <category term="rust"/><content type="xhtml"><div><p>One<br/>two</p><p>3 &lt; 4</p></div></content></entry></feed>`);
  assert.equal(feed.title, "Blog");
  assert.equal(feed.site, "blog.example.org");
  assert.deepEqual(feed.entries, [
    { id: "tag:1", title: "A <b> c", text: "One\ntwo\n\n3 < 4", link: "https://blog.example.org/1?a=1&b=2", time: "2026-01-02T02:04:05.000Z", author: "Ada", categories: ["rust"] },
  ]);
});

test("an RSS feed", () => {
  const feed = readFeed(`<rss version="2.0"><channel><title>News</title><link>https://news.example.org/x</link>
    <item><guid isPermaLink="false">7</guid><title><![CDATA[Ten > nine]]></title><pubDate>Tue, 10 Jun 2025 04:00:00 +0200</pubDate>
      <description>short</description><content:encoded><![CDATA[<h1>Hi</h1><ul><li>a</li><li>b&nbsp;c</li></ul><script>x<y</script>]]></content:encoded></item>
    <item><link>https://news.example.org/8</link><title>No id &#8212; no date</title></item><item></item></channel></rss>`);
  assert.equal(feed.site, "news.example.org");
  assert.deepEqual(feed.entries.map(({ id, title, text, time }) => ({ id, title, text, time })), [
    { id: "7", title: "Ten > nine", text: "Hi\n\n- a\n\n- b\u00a0c", time: "2025-06-10T02:00:00.000Z" },
    { id: "https://news.example.org/8", title: "No id — no date", text: "", time: null },
  ]);
});

test("what is no feed, and what is damaged, ends quietly", () => {
  for (const text of ["", "<html><body>x</body></html>", "{}", "<<<>>>", "<a".repeat(1000)]) assert.equal(readFeed(text), null);
  assert.equal(readFeed("<rss><channel><item><title>cut").entries.length, 0);
  assert.equal(plain("<p>a &unknown; &#0; b</p><p"), "a &unknown; &#0; b\n\n<p");
});
