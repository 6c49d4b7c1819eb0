#!/bin/sh
# Shows the runtime at work: a simulated GitLab, a simulated CortexDB, a first run, some changes, and the runs after them.
#
# Nothing leaves this machine, and nothing of yours is used: the runtime gets an empty environment and a temporary home folder.
# `make demo` builds what this needs.

set -eu
cd "$(dirname "$0")/.."

runtime=dist/runtime
component=dist/gitlab.wasm
bin=${CARGO_TARGET_DIR:-target}/release
token=glpat-demo-token
key=demo-key-0123456789

folder=
gitlab_process=
cortex_process=

tidy_up() {
    for process in $gitlab_process $cortex_process; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    gitlab_process= cortex_process=
    if [ -n "$folder" ]; then rm -rf "$folder"; fi
}
trap tidy_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
    printf '\ndemo: %s\n' "$*" >&2
    exit 1
}

headline() { printf '\n== %s\n\n' "$*"; }

for file in "$runtime" "$component" "$bin/gitlab-sim" "$bin/cortex-sim"; do
    [ -e "$file" ] || fail "$file is missing. Run \`make demo\`, which builds it first."
done
folder=$(mktemp -d "${TMPDIR:-/tmp}/runtime-demo.XXXXXX") || fail "cannot make a temporary folder"

# --- the two servers -------------------------------------------------------------------------------------------------------

# Waits for the one line that a simulator prints, and prints the address in it.
address_of() { # file process
    tries=0
    while [ "$tries" -lt 100 ]; do
        address=$(sed -n 's/^.* listening on \(http:[^ ]*\).*$/\1/p' "$1")
        if [ -n "$address" ]; then
            printf '%s\n' "$address"
            return 0
        fi
        kill -0 "$2" 2>/dev/null || return 1
        sleep 0.1 2>/dev/null || sleep 1
        tries=$((tries + 1))
    done
    return 1
}

"$bin/gitlab-sim" --listen 127.0.0.1:0 --seed 7 --size demo --token "$token" --latency-ms 20 \
    >"$folder/gitlab.out" 2>"$folder/gitlab.err" &
gitlab_process=$!
"$bin/cortex-sim" --listen 127.0.0.1:0 --key "$key" >"$folder/cortex.out" 2>"$folder/cortex.err" &
cortex_process=$!
gitlab=$(address_of "$folder/gitlab.out" "$gitlab_process") || fail "gitlab-sim did not start: $(cat "$folder/gitlab.err")"
cortexdb=$(address_of "$folder/cortex.out" "$cortex_process") || fail "cortex-sim did not start: $(cat "$folder/cortex.err")"

# What `cortexdb init` leaves in a home folder.
mkdir -p "$folder/home/.cortexdb"
printf '{"token": "%s", "user_id": "user:local", "scope": "org:acme/user:local"}\n' "$key" >"$folder/home/.cortexdb/state.json"
chmod 600 "$folder/home/.cortexdb/state.json"

# --- how to ask a server ---------------------------------------------------------------------------------------------------

python=
if python3 -c 'import json, urllib.request' >/dev/null 2>&1; then python=python3; fi
fetcher=
if command -v curl >/dev/null 2>&1; then fetcher=curl; elif [ -n "$python" ]; then fetcher=$python; fi

get() { # url
    case $fetcher in
        curl) curl --noproxy '*' --silent --show-error --fail "$1" ;;
        *) ask "$1" ;;
    esac
}

post() { # url body
    case $fetcher in
        curl) curl --noproxy '*' --silent --show-error --fail --data "$2" --header 'Content-Type: application/json' "$1" ;;
        *) ask "$1" "$2" ;;
    esac
}

ask() {
    "$python" - "$@" <<'PYTHON'
import sys, urllib.request
body = sys.argv[2].encode() if len(sys.argv) > 2 else None
request = urllib.request.Request(sys.argv[1], data=body, headers={"Content-Type": "application/json"})
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
sys.stdout.buffer.write(direct.open(request, timeout=60).read())
PYTHON
}

# --- how to run ------------------------------------------------------------------------------------------------------------

# The runtime with these settings and no others.
with_runtime() {
    env -i PATH="$PATH" TERM="${TERM:-dumb}" HOME="$folder/home" \
        GITLAB_URL="$gitlab" GITLAB_TOKEN="$token" CORTEXDB_URL="$cortexdb" \
        "$runtime" "$@"
}

run() {
    printf '$ dist/runtime run dist/gitlab.wasm\n'
    code=0
    with_runtime run "$component" >"$folder/receipt" || code=$?
    cat "$folder/receipt"
    [ "$code" -eq 0 ] || fail "the run ended with exit code $code"
}

# --- the demo --------------------------------------------------------------------------------------------------------------

headline "Two servers on this machine"
printf 'GitLab    %s  (simulated; a history of ten projects, 20 ms for every answer)\n' "$gitlab"
printf 'CortexDB  %s  (simulated; checks every envelope, remembers everything)\n' "$cortexdb"

headline "The first run reads everything that the token may see"
run

headline "Three of the experiences that CortexDB holds now"
if [ -z "$fetcher" ]; then
    printf 'Left out: looking at the servers needs curl or python3, and this machine has neither.\n'
elif [ -n "$python" ]; then
    get "$cortexdb/_sim/events?live=1&limit=5000" >"$folder/events.json" || fail "cannot list CortexDB's events"
    "$python" - "$folder/events.json" <<'PYTHON' || fail "cannot show CortexDB's events"
import json, sys, textwrap

with open(sys.argv[1], encoding="utf-8") as file:
    listed = json.load(file)
events = listed["events"]
by_id = {event["event_id"]: event["envelope"] for event in events}

def source_id(envelope):
    return envelope["source"]["source_id"]

def first(kind, good):
    found = [event["envelope"] for event in events if source_id(event["envelope"]).startswith(f"gl:{kind}:")]
    return next((envelope for envelope in found if good(envelope)), found[0] if found else None)

def readable(envelope):
    return envelope["content"]["text"].isascii() and len(envelope["content"]["text"]) > 60

def answers_a_comment(envelope):
    before = [by_id.get(event) for event in envelope["context"].get("preceded_by", [])]
    return readable(envelope) and any(other and source_id(other).startswith("gl:note:") for other in before)

out = sys.stdout
if hasattr(out, "reconfigure"):
    out.reconfigure(errors="replace")
print(f"{listed['total']} in all. A merge request, a comment, a pipeline:")
for envelope in filter(None, [first("merge_request", readable), first("note", answers_a_comment), first("pipeline", readable)]):
    print(f"\n  {source_id(envelope)}  ({envelope['modality']})")
    print(f"    scope       {envelope['scope']}")
    print(f"    key         {envelope['idempotency_key']}")
    print(f"    observed    {envelope['context']['observed_at']}")
    for event in envelope["context"].get("preceded_by", []):
        print(f"    preceded by {event}  ({source_id(by_id[event])})" if event in by_id else f"    preceded by {event}")
    print(textwrap.fill("    labels      " + " ".join(envelope["context"]["labels"]), 118, subsequent_indent=" " * 16, break_on_hyphens=False))
    text = " ".join(envelope["content"]["text"].split())
    print(textwrap.fill("    text        " + text, 118, subsequent_indent=" " * 16, max_lines=4, placeholder=" [...]"))
PYTHON
else
    printf 'As they are (with python3 on this machine they would be easier to read):\n\n'
    get "$cortexdb/_sim/events?live=1&limit=3" || fail "cannot list CortexDB's events"
    printf '\n'
fi

headline "People go on working in GitLab"
changed=yes
if [ -z "$fetcher" ]; then
    changed=
    printf 'Left out: changing the simulated GitLab needs curl or python3, and this machine has neither.\n'
else
    post "$gitlab/_sim/mutate" '{"seed": 3, "count": 12}' >"$folder/changes.json" || fail "cannot change the simulated GitLab"
    if [ -n "$python" ]; then
        "$python" - "$folder/changes.json" <<'PYTHON' || fail "cannot show what was changed"
import json, sys
words = {
    "new_merge_request": "a new merge request", "edit_merge_request": "a merge request edited",
    "set_merge_request_state": "a merge request merged, closed or reopened", "new_issue": "a new issue",
    "edit_issue": "an issue edited", "set_issue_open": "an issue closed or reopened",
    "set_confidential": "an issue made confidential or public", "add_label": "a label added", "add_note": "a new comment",
    "add_internal_note": "a new internal comment", "start_thread": "a new thread", "add_system_note": "a system note",
    "reply": "a reply in a thread", "edit_note": "a comment edited", "delete_note": "a comment deleted",
    "resolve_thread": "a thread resolved", "push_commits": "commits pushed", "push_merge": "a merge commit pushed",
    "new_pipeline": "a new pipeline", "set_pipeline_status": "a pipeline with a new status", "new_release": "a new release",
    "edit_release": "a release edited", "bump": "a merge request or an issue touched, nothing changed",
}
out = sys.stdout
if hasattr(out, "reconfigure"):
    out.reconfigure(errors="replace")
with open(sys.argv[1], encoding="utf-8") as file:
    for change in json.load(file):
        what = words.get(change["name"], change["name"].replace("_", " "))
        detail = change.get("detail", "")
        named = change["name"] in ("new_issue", "new_merge_request", "edit_issue", "edit_merge_request", "add_label")
        print(f"  project {change['project']}: {what}" + (f" ({detail})" if named and detail else ""))
PYTHON
    else
        cat "$folder/changes.json"
        printf '\n'
    fi
fi

if [ -n "$changed" ]; then
    headline "The second run: only the changes travel"
    run
    printf '\nWhat is confidential, internal or switched off in GitLab is counted and left out. An edited text replaces the old one.\n'
fi

headline "Another run, with nothing new: nothing is written"
run
grep -q '^  written  *0$' "$folder/receipt" || fail "the last run wrote something although nothing had changed"

headline "What is remembered between runs"
printf '$ dist/runtime status\n'
with_runtime status >"$folder/status" || fail "\`runtime status\` failed"
sed -n '1,10p' "$folder/status"
lines=$(wc -l <"$folder/status")
if [ "$lines" -gt 10 ]; then printf '  ... and %s more streams\n' "$((lines - 10))"; fi

headline "Where to go next"
cat <<'TEXT'
  README.md           from your GitLab to your CortexDB, in five lines
  docs/guide.md       every setting, and what to do when something is wrong
  docs/delivery.md    why nothing is lost and nothing is doubled, with the test behind each rule
  dist/runtime --help
TEXT
