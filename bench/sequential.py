#!/usr/bin/env python3
"""The plain script that somebody would write instead: correct, and one request after the other.

It reads what the connector reads (all pages of each list, discussions where there are comments, the details of finished
pipelines, leaves out the same things) over one kept connection for each server, and writes up to a thousand records with each
request. Comments follow the one before them, as the contract has it: a thread is written turn by turn, the same turn of all threads of a
page in one request. It keeps no cursors and no ledger, and retries nothing.

    GITLAB_URL= GITLAB_TOKEN= GITLAB_GROUP_IDS=<id> CORTEXDB_URL= CORTEXDB_API_KEY= python3 sequential.py [requests]

With `requests` it asks with that library, as most such scripts do; without, with the standard library's bare connection, which is the
leanest that Python has.
"""

import hashlib
import http.client
import json
import os
import sys
import urllib.parse

BULK = 1000
FINISHED = {"success", "failed", "canceled", "skipped"}


class Server:
    def __init__(self, url, headers):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
        self.headers = headers

    def ask(self, method, path, body=None):
        self.connection.request(method, path, body, self.headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text), answer.headers


class ServerOfRequests:
    def __init__(self, url, headers):
        import requests

        self.session = requests.Session()
        self.session.headers.update(headers)
        self.url = url

    def ask(self, method, path, body=None):
        answer = self.session.request(method, self.url + path, data=body)
        if answer.status_code >= 300:
            raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text[:300]!r}")
        return answer.json(), answer.headers


connect = ServerOfRequests if sys.argv[1:] == ["requests"] else Server
gitlab = connect(os.environ["GITLAB_URL"], {"PRIVATE-TOKEN": os.environ["GITLAB_TOKEN"]})
cortexdb = connect(
    os.environ["CORTEXDB_URL"],
    {
        "Authorization": "Bearer " + os.environ["CORTEXDB_API_KEY"],
        "X-Cortex-Actor": "user:local",
        "Content-Type": "application/json",
    },
)
waiting = []
# Event ids, by source id, of what a comment may follow.
event_ids = {}


def pages(path, **query):
    """All rows of a list."""
    page = "1"
    while page:
        asked = urllib.parse.urlencode({**query, "per_page": 100, "page": page})
        rows, headers = gitlab.ask("GET", f"/api/v4{path}?{asked}")
        yield from rows
        page = headers.get("x-next-page")


def flush():
    if waiting:
        body = json.dumps({"ordering": "strict_temporal", "items": waiting}).encode()
        answer, _ = cortexdb.ask("POST", "/v1/experience/bulk", body)
        if len(answer["results"]) != len(waiting):
            raise SystemExit(f"not everything was written: {answer}")
        for envelope, result in zip(waiting, answer["results"]):
            event_ids[envelope["source"]["source_id"]] = result["event_id"]
        waiting.clear()


def write(project, kind, id, text, observed_at, modality="document", role="system", labels=(), author=None, after=None):
    source_id = f"gl:{kind}:{project['id']}/{id}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    envelope = {
        "scope": "org:acme/source:gitlab/project:" + project["path_with_namespace"].replace("/", "__"),
        "modality": modality,
        "content": {"kind": "message", "role": role, "text": text},
        "context": {
            "observed_at": observed_at,
            "labels": [source_id, "gitlab", kind, f"project:{project['id']}", "source:gitlab", *labels],
        },
        "idempotency_key": hashlib.sha256(f"{source_id}@{digest}".encode()).hexdigest()[:48],
        "source": {
            "schema_version": 2,
            "source_id": source_id,
            "modality": modality,
            "content_kind": "text/plain",
            "source_fingerprint": f"sha256:{digest}",
            "fragments": [
                {
                    "fragment_id": f"fragment-0-{digest[:24]}",
                    "content_fingerprint": f"sha256:{digest}",
                    "byte_range": {"start": 0, "end": len(text.encode())},
                    "locator": {"kind": "generic", "ordinal": 0, "path": ["gl", kind, f"{project['id']}/{id}"]},
                }
            ],
        },
    }
    if after:
        envelope["context"]["preceded_by"] = [event_ids[after]]
    if author:
        envelope["observed_actor"] = {"id": f"user:{author['id']}"}
    waiting.append(envelope)
    if len(waiting) == BULK:
        flush()


def text_of(*parts):
    return "\n\n".join(part for part in parts if part)


def threads(project, kind, list_name, **query):
    page = []
    for row in pages(f"/projects/{project['id']}/{list_name}", scope="all", order_by="created_at", sort="asc", **query):
        if row.get("confidential"):
            continue
        labels = [f"state={row['state']}"] + ["label:" + name.replace(",", "%2C") for name in row["labels"]]
        text = text_of(row["title"], row["description"])
        write(project, kind, row["iid"], text, row["updated_at"], labels=labels, author=row["author"])
        if row["user_notes_count"]:
            page.append(row["iid"])
        if len(page) == 100:
            comments(project, kind, list_name, page)
            page = []
    comments(project, kind, list_name, page)


def comments(project, kind, list_name, parents):
    """The comments of some merge requests or issues, turn by turn."""
    started = []
    for iid in parents:
        parent = f"gl:{kind}:{project['id']}/{iid}"
        for discussion in pages(f"/projects/{project['id']}/{list_name}/{iid}/discussions"):
            turns = [
                note
                for note in discussion["notes"]
                if not (note["system"] or note.get("internal") or note.get("confidential") or not note["body"].strip())
            ]
            started.append((parent, discussion["id"], parent, turns))
    while started:
        flush()
        going_on = []
        for parent, discussion, after, turns in started:
            if turns:
                note = turns[0]
                labels = [f"parent={parent}", f"discussion={discussion}"]
                write(project, "note", note["id"], note["body"], note["updated_at"], "conversation", "user", labels, note["author"], after)
                going_on.append((parent, discussion, f"gl:note:{project['id']}/{note['id']}", turns[1:]))
        started = going_on


def read(project):
    threads(project, "merge_request", "merge_requests", state="all")
    threads(project, "issue", "issues")
    base = f"/projects/{project['id']}"
    for commit in pages(f"{base}/repository/commits", ref_name=project["default_branch"]):
        write(project, "commit", commit["id"], commit["message"], commit["committed_date"], labels=[f"sha={commit['id']}"])
    for filters in ({}, {"source": "parent_pipeline"}):
        for row in pages(f"{base}/pipelines", order_by="id", sort="asc", **filters):
            if row["status"] in FINISHED:
                pipeline, _ = gitlab.ask("GET", f"/api/v4{base}/pipelines/{row['id']}")
                lines = [f"{name}: {pipeline[name]}" for name in ("status", "ref", "sha", "source", "duration", "coverage")]
                labels = [f"status={pipeline['status']}", f"sha={pipeline['sha']}"]
                write(project, "pipeline", row["id"], "\n".join(lines), row["created_at"], "observation", "system", labels, pipeline["user"])
    for release in pages(f"{base}/releases", order_by="created_at", sort="asc"):
        text = text_of(release["name"], release["description"])
        write(project, "release", release["tag_name"], text, release["released_at"], labels=[f"tag={release['tag_name']}"])


for group in os.environ["GITLAB_GROUP_IDS"].split(","):
    for project in list(pages(f"/groups/{group}/projects", include_subgroups="true", with_shared="false", order_by="id", sort="asc")):
        read(project)
flush()
