#!/bin/sh
# The platform over its API, call by call: a tenant, a connection, a backfill, a mapper that is tried, promoted and rolled back, and a
# webhook call that is replayed.
#
# Against a platform of your own:
#   PLATFORM_URL=https://… PLATFORM_KEY=cr_… GITLAB_URL=… GITLAB_TOKEN=… CORTEXDB_URL=… CORTEXDB_API_KEY=… sh examples/platform.sh
# Without PLATFORM_URL it starts one, with a simulated GitLab and a simulated CortexDB, in a temporary folder (`make build simulators mappers` first).

set -eu
cd "$(dirname "$0")/.."

component=${COMPONENT:-dist/gitlab.wasm}
mapper=${MAPPER:-dist/mappers/rust.wasm}
folder=$(mktemp -d "${TMPDIR:-/tmp}/runtime-platform.XXXXXX")
processes=

tidy_up() {
    for process in $processes; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    rm -rf "$folder"
}
trap tidy_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
    printf '\nplatform: %s\n' "$*" >&2
    [ ! -s "$folder/serve.log" ] || tail -n 20 "$folder/serve.log" >&2
    exit 1
}

headline() { printf '\n== %s\n\n' "$*"; }

# --- a platform, where there is none -----------------------------------------------------------------------------------------

# Waits for the line in which a program says where it listens.
address_of() { # file
    tries=0
    while [ "$tries" -lt 300 ]; do
        address=$(sed -n 's/^.*listening on \(http:[^ ]*\).*$/\1/p' "$1")
        if [ -n "$address" ]; then
            printf '%s\n' "$address"
            return 0
        fi
        sleep 0.1 2>/dev/null || sleep 1
        tries=$((tries + 1))
    done
    return 1
}

if [ -z "${PLATFORM_URL:-}" ]; then
    bin=${CARGO_TARGET_DIR:-target}/release
    : >"$folder/gitlab.out" >"$folder/cortex.out" >"$folder/serve.out"
    "$bin/gitlab-sim" --size tiny --token glpat-demo-token >"$folder/gitlab.out" 2>&1 &
    processes="$processes $!"
    "$bin/cortex-sim" --key demo-key-0123456789 >"$folder/cortex.out" 2>&1 &
    processes="$processes $!"
    GITLAB_URL=$(address_of "$folder/gitlab.out") || fail "the simulated GitLab does not start"
    CORTEXDB_URL=$(address_of "$folder/cortex.out") || fail "the simulated CortexDB does not start"
    GITLAB_TOKEN=glpat-demo-token
    CORTEXDB_API_KEY=demo-key-0123456789
    # Both simulators are on this machine, where a tenant's connections may not reach without the operator's word.
    cat >"$folder/serve.toml" <<'TOML'
[tenants]
source_networks = ["127.0.0.1"]
cortexdb_networks = ["127.0.0.1"]
TOML
    dist/runtime serve --config "$folder/serve.toml" --data "$folder/data" --listen 127.0.0.1:0 \
        >"$folder/serve.out" 2>"$folder/serve.log" &
    processes="$processes $!"
    PLATFORM_URL=$(address_of "$folder/serve.out") || fail "the platform does not start"
    PLATFORM_KEY=$(cat "$folder/data/admin-key")
    networks='["127.0.0.1"]'
fi

# --- calls -------------------------------------------------------------------------------------------------------------------

# The body of the answer; anything but 2xx ends the script with the platform's words.
call() { # method path [json]
    method=$1 path=$2
    shift 2
    if [ $# -gt 0 ]; then
        set -- -H 'Content-Type: application/json' --data-binary "$1"
    fi
    status=$(curl -sS -o "$folder/answer" -w '%{http_code}' -X "$method" -H "Authorization: Bearer $PLATFORM_KEY" "$@" "$PLATFORM_URL/api/v1$path")
    case $status in
    2*) cat "$folder/answer" ;;
    *) fail "$method $path: $status $(cat "$folder/answer")" ;;
    esac
}

upload() { # file
    status=$(curl -sS -o "$folder/answer" -w '%{http_code}' -H "Authorization: Bearer $PLATFORM_KEY" \
        -H 'Content-Type: application/wasm' --data-binary "@$1" "$PLATFORM_URL/api/v1/components?tenant=$tenant")
    case $status in
    2*) cat "$folder/answer" ;;
    *) fail "upload of $1: $status $(cat "$folder/answer")" ;;
    esac
}

# A member of a JSON object on standard input: `get items 0 id`.
get() {
    python3 -c '
import json, sys
value = json.load(sys.stdin)
for name in sys.argv[1:]:
    value = value[int(name) if isinstance(value, list) else name]
print(value if isinstance(value, str) else json.dumps(value))' "$@"
}

# Asks until the answer holds the text.
until_it_says() { # text path
    tries=0
    while [ "$tries" -lt 600 ]; do
        if call GET "$2" | grep -q "$1"; then return 0; fi
        sleep 0.2 2>/dev/null || sleep 1
        tries=$((tries + 1))
    done
    fail "$2 never says $1: $(call GET "$2")"
}

headline "a tenant, with at most two runs at a time"
tenant=$(call POST /tenants "{\"name\": \"example-$$\", \"caps\": {\"concurrent_runs\": 2}}" | get id)
printf 'tenant %s\n' "$tenant"

headline "the connector is uploaded and admitted"
connector=$(upload "$component" | get digest)
printf 'connector %s\n' "$connector"

headline "a connection"
secret=$(python3 -c 'import secrets; print(secrets.token_urlsafe(32))')
connection=$(call POST "/connections?tenant=$tenant" "{
    \"name\": \"gitlab\",
    \"chain\": {\"connector\": \"$connector\"},
    \"config\": {
        \"source\": {\"url\": \"$GITLAB_URL\", \"allowed_networks\": ${networks:-[]}},
        \"cortexdb\": {\"url\": \"$CORTEXDB_URL\", \"scope_template\": \"org:example/source:gitlab/project:{project_path}\"},
        \"run\": {\"interval\": \"1h\"},
        \"keep_recorded\": true
    },
    \"secrets\": {\"source_token\": \"$GITLAB_TOKEN\", \"cortexdb_api_key\": \"$CORTEXDB_API_KEY\", \"webhook_secret\": \"$secret\"}
}" | get id)
printf 'connection %s\n' "$connection"

headline "its backfill"
until_it_says '"outcome": *"complete"' "/connections/$connection/runs"
call GET "/connections/$connection/runs" | get items 0 usage

headline "a mapper is uploaded and tried on what was recorded"
digest=$(upload "$mapper" | get digest)
chain="{\"connector\": \"$connector\", \"mappers\": [{\"digest\": \"$digest\"}]}"
call POST "/connections/$connection/chain/dry-run" "{\"chain\": $chain, \"most\": 50}" >"$folder/trial"
python3 -c 'import json, sys; trial = json.load(open(sys.argv[1])); print({name: value for name, value in trial.items() if not isinstance(value, (list, dict))})' "$folder/trial"

headline "promoted, and rolled back"
call PUT "/connections/$connection/chain" "$chain" | get number
call POST "/connections/$connection/chain/rollback" '{}' | get number

headline "a webhook call, followed and replayed"
project=$(curl -sS -H "PRIVATE-TOKEN: $GITLAB_TOKEN" "$GITLAB_URL/api/v4/projects?membership=true&per_page=1" | get 0 id)
taken=$(curl -sS -o /dev/null -w '%{http_code}' -X POST -H 'Content-Type: application/json' -H "X-Gitlab-Token: $secret" \
    -H 'X-Gitlab-Event: Issue Hook' -H "Idempotency-Key: example-$$" \
    --data-binary "{\"object_kind\": \"issue\", \"project\": {\"id\": $project}, \"object_attributes\": {\"iid\": 1}}" "$PLATFORM_URL/hooks/$connection")
[ "$taken" = 202 ] || fail "the webhook call was answered with $taken"
until_it_says '"state": *"\(handled\|ignored\|polled\)"' "/connections/$connection/deliveries"
delivery=$(call GET "/connections/$connection/deliveries" | get items 0 id)
call POST "/connections/$connection/deliveries/$delivery/replay" '{}'
printf '\n'
until_it_says '"state": *"\(handled\|ignored\|polled\)"' "/connections/$connection/deliveries/$delivery"
call GET "/connections/$connection/deliveries/$delivery" | get state

headline "what it cost, and who did what"
call GET "/tenants/$tenant/usage"
printf '\n'
call GET "/audit?tenant=$tenant" | python3 -c 'import json, sys; [print(line["at"], line["action"]) for line in json.load(sys.stdin)["items"]]'

headline "the connection is taken down"
call DELETE "/connections/$connection" >/dev/null
printf 'done\n'
