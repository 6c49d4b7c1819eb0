#!/usr/bin/env python3
"""Measures `runtime serve`: idle connections, webhook calls, pages, and what one tenant costs another; see README.md in this folder.

`make bench-platform` builds and calls it. CONNECTIONS=1000,10000 are the sizes; DATABASE=postgres://… a server on which databases may be made, else SQLite. It writes
bench/PLATFORM.md, or with PostgreSQL bench/PLATFORM-postgresql.md.
"""

import concurrent.futures
import datetime
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.parse

import machinery
from machinery import KEY, ROOT, RUNTIME, TOKEN, Simulator

SIZES = [int(text) for text in (os.environ.get("CONNECTIONS") or "1000,10000").split(",")]
DATABASE = os.environ.get("DATABASE", "")
IDLE_SECONDS = 30
SECRET = "platform-bench-secret-0123456789"
CONFIG = """lease = "10s"
[tenants]
source_networks = ["127.0.0.1"]
cortexdb_networks = ["127.0.0.1"]
[tenants.limits]
cpu_between_waits = "30s"
"""

rows = []
started = time.monotonic()


def say(words):
    print(f"[{time.monotonic() - started:6.1f} s] {words}", flush=True)


def row(measure, value, note=""):
    rows.append((measure, value, note))
    say(f"  {measure} | {value} | {note}")


class Caller:
    """A client that keeps one connection for each thread."""

    def __init__(self, url, key):
        self.netloc, self.key = urllib.parse.urlsplit(url).netloc, key
        self.local = threading.local()

    def send(self, method, path, body, headers):
        for attempt in (1, 2):
            connection = getattr(self.local, "connection", None)
            if connection is None:
                connection = self.local.connection = http.client.HTTPConnection(self.netloc, timeout=120)
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (http.client.HTTPException, OSError):
                connection.close()
                self.local.connection = None
                if attempt == 2:
                    raise

    def api(self, method, path, body=None, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
        headers = {"Authorization": f"Bearer {self.key}"} | ({"Content-Type": kind} if data else {})
        status, text = self.send(method, "/api/v1" + path, data, headers)
        if status >= 300:
            raise SystemExit(f"bench: {method} {path}: {status} {text[:500]!r}")
        return json.loads(text) if text else None

    def hook(self, connection, event, body):
        headers = {"Content-Type": "application/json", "X-Gitlab-Token": SECRET, "X-Gitlab-Event": event}
        began = time.monotonic()
        status, _ = self.send("POST", f"/hooks/{connection}", body, headers)
        return status, time.monotonic() - began


def psql(statement):
    subprocess.run(["psql", "--no-psqlrc", "--quiet", "--command", statement, DATABASE], check=True)


class Serve:
    """One `runtime serve` with its simulators."""

    def __init__(self, size, latency=0, workers=4):
        self.gitlab = Simulator("gitlab-sim", "--seed", 7, "--size", size, "--latency-ms", latency)
        self.cortex = Simulator("cortex-sim", "--key", KEY, "--latency-ms", latency, "--no-schema-check")
        self.home = tempfile.mkdtemp(prefix="bench-platform-")
        with open(os.path.join(self.home, "serve.toml"), "w") as file:
            file.write(CONFIG)
        command = [RUNTIME, "serve", "--config", "serve.toml", "--data", "data", "--listen", "127.0.0.1:0", "--workers", str(workers)]
        variables = {"PATH": os.environ["PATH"], "HOME": self.home, "XDG_CACHE_HOME": machinery.CACHE}
        self.database = None
        if DATABASE:
            # Each has one of its own: what an earlier one left would run here, too.
            self.database = f"connector_bench_{os.getpid()}_{os.path.basename(self.home)[-8:]}"
            psql(f'CREATE DATABASE "{self.database}"')
            variables["RUNTIME_DATABASE"] = urllib.parse.urlsplit(DATABASE)._replace(path=f"/{self.database}").geturl()
        self.log = open(os.path.join(self.home, "log"), "w")
        self.process = subprocess.Popen(command, cwd=self.home, env=variables, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if "listening on " not in line:
            raise SystemExit(f"bench: serve did not start: {open(self.log.name).read()[-2000:]}")
        with open(os.path.join(self.home, "data", "admin-key")) as file:
            self.caller = Caller(line.split()[-1], file.read().strip())
        with open(os.path.join(ROOT, "dist", "gitlab.wasm"), "rb") as file:
            self.connector = self.caller.api("POST", "/components", file.read(), "application/wasm")["digest"]
        self.projects = [project["id"] for project in self.gitlab.get("/_sim/world")["projects"] if project["issues"]]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.gitlab.stop()
        self.cortex.stop()
        self.log.close()
        shutil.rmtree(self.home)
        if self.database:
            psql(f'DROP DATABASE "{self.database}" WITH (FORCE)')

    def tenant(self, name, **caps):
        return self.caller.api("POST", "/tenants", {"name": name, "caps": caps})["id"]

    def connect(self, tenant, name, project, mappers=(), interval="24h", org="bench"):
        wanted = {
            "name": name,
            "chain": {"connector": self.connector, "mappers": list(mappers)},
            "config": {
                "source": {"url": self.gitlab.url, "allowed_networks": ["127.0.0.1"]},
                "settings": {"projects": [str(project)]},
                "cortexdb": {"url": self.cortex.url, "scope_template": f"org:{org}/source:gitlab/project:{{project_path}}"},
                "run": {"interval": interval, "reconcile_every": "0"},
            },
            "secrets": {"source_token": TOKEN, "cortexdb_api_key": KEY, "webhook_secret": SECRET},
        }
        return self.caller.api("POST", f"/connections?tenant={tenant}", wanted)["id"]

    def runs(self, connection):
        return self.caller.api("GET", f"/connections/{connection}/runs?limit=5")["items"]

    def wait_complete(self, connection, seconds=600):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            runs = self.runs(connection)
            if any(run["outcome"] == "complete" for run in runs):
                return
            time.sleep(0.2)
        raise SystemExit(f"bench: {connection} is not complete: {runs}\n{open(self.log.name).read()[-3000:]}")

    def memory(self):
        """Resident memory, in KiB."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

    def cpu(self):
        """Seconds computed so far."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def milliseconds(seconds):
    return f"{seconds * 1000:.1f} ms"


def idle(count):
    """Connections that have run once and wait for tomorrow."""
    say(f"{count} connections, mostly idle")
    with Serve("tiny") as serve:
        tenants = [serve.tenant(f"tenant-{number}", concurrent_runs=4) for number in range(100)]
        first = serve.connect(tenants[0], "first", serve.projects[0])
        serve.wait_complete(first)
        before = serve.memory()
        began, computed = time.monotonic(), serve.cpu()

        def make(number):
            return serve.connect(tenants[number % len(tenants)], f"c{number}", serve.projects[number % len(serve.projects)])

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            connections = list(pool.map(make, range(count - 1)))
        row(f"{count}: created over the API, each running at once", f"{count / (time.monotonic() - began):,.0f}/s", "beside their first runs")
        while any(tenant_busy(serve, connections[at]) for at in range(0, len(connections), max(1, len(connections) // 50))):
            time.sleep(0.5)
        settle(serve)
        wall = time.monotonic() - began
        row(f"{count}: created and run once", f"{count / wall:,.0f} runs/s", f"{wall:.0f} s, {serve.cpu() - computed:.0f} s computed, the simulators on the same cores")
        grown = serve.memory() - before
        row(f"{count}: memory", f"{serve.memory() / 1024:.0f} MiB in all", f"{max(grown, 0) * 1024 / count:,.0f} bytes more for each than with one connection")
        computed = serve.cpu()
        time.sleep(IDLE_SECONDS)
        row(f"{count}: scheduler, nothing due", f"{(serve.cpu() - computed) / IDLE_SECONDS * 100:.2f} % of a core", f"over {IDLE_SECONDS} s")
        deliveries(serve, connections[: min(100, len(connections))], count)


def tenant_busy(serve, connection):
    runs = serve.runs(connection)
    return not runs or runs[0]["outcome"] == "running"


def settle(serve):
    """Until the process rests."""
    while True:
        before = serve.cpu()
        time.sleep(2)
        if serve.cpu() - before < 0.2:
            return


def deliveries(serve, connections, count):
    """Calls that nobody wants: what it costs to take them."""
    body = json.dumps({"object_kind": "wiki_page", "padding": "x" * 8000})
    for threads, pace in ((8, None), (8, 500)):
        times, statuses = [], []
        until = time.monotonic() + 10
        began = time.monotonic()

        def blast(number):
            sent = 0
            while time.monotonic() < until:
                if pace:
                    due = began + sent * threads / pace
                    time.sleep(max(0, due - time.monotonic()))
                status, took = serve.caller.hook(connections[(number + sent * threads) % len(connections)], "Wiki Page Hook", body[:-1] + f', "n": "{number}-{sent}"}}')
                times.append(took)
                statuses.append(status)
                sent += 1

        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(blast, range(threads)))
        taken = statuses.count(202)
        what = f"{count}: webhook calls of 8 KB, {'as fast as 8 clients can' if not pace else f'{pace}/s'}"
        row(what, f"{taken / (time.monotonic() - began):,.0f}/s stored and answered", f"p50 {milliseconds(statistics.median(times))}, p99 {milliseconds(percentile(times, 0.99))}, {len(statuses) - taken} refused; clients on the same cores")


def pages():
    """Many connections that read at the same time."""
    say("Pages")
    with Serve(3000, workers=8) as serve:
        tenant = serve.tenant("reader", concurrent_runs=8)
        serve.gitlab.ask("POST", "/_sim/reset")
        began = time.monotonic()
        # Each writes into scopes of its own, so that what one has written is nothing that another finds.
        connections = [serve.connect(tenant, f"c{number}", serve.projects[number % len(serve.projects)], org=f"bench-{number}") for number in range(16)]
        for connection in connections:
            serve.wait_complete(connection)
        wall = time.monotonic() - began
        stats = serve.gitlab.get("/_sim/stats")
        requests = sum(counter["requests"] for counter in stats["endpoints"].values())
        stored = serve.cortex.get("/_sim/stats")["live_events"]
        row("first readings, 8 at a time", f"{requests / wall:,.0f} pages/s, {stored / wall:,.0f} records/s", f"{len(connections)} connections, {requests} requests, {stored} records in {wall:.1f} s")


def followed(serve, connection, project, count):
    """Times from call to CortexDB's receipt, as the platform wrote them down."""
    for number in range(count):
        body = json.dumps({"object_kind": "issue", "project": {"id": project}, "object_attributes": {"iid": 1}, "n": number})
        status, _ = serve.caller.hook(connection, "Issue Hook", body)
        if status != 202:
            raise SystemExit(f"bench: a call was answered with {status}")
        time.sleep(0.25)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        items = serve.caller.api("GET", f"/connections/{connection}/deliveries?limit={count}")["items"]
        if all(item["settled_at"] for item in items):
            break
        time.sleep(0.2)
    moment = lambda text: datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return [(moment(item["settled_at"]) - moment(item["received_at"])).total_seconds() for item in items if item["settled_at"]]


def flood(serve, connection, project, ended):
    """Webhook calls of one tenant, 300 a second, each about another issue than the one before."""
    threads, pace, began = 4, 300, time.monotonic()

    def call(number):
        sent = 0
        while not ended.is_set():
            body = json.dumps({"object_kind": "issue", "project": {"id": project}, "object_attributes": {"iid": sent % 50 + 1}, "n": f"{number}-{sent}"})
            serve.caller.hook(connection, "Issue Hook", body)
            sent += 1
            time.sleep(max(0, began + sent * threads / pace - time.monotonic()))

    callers = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(threads)]
    for caller in callers:
        caller.start()
    return callers


def isolation():
    """What one tenant's loops, bombs and calls cost the deliveries of another."""
    with open(os.path.join(ROOT, "dist", "puppet-mapper.wasm"), "rb") as file:
        mapper = file.read()
    for what in ("loop", "bomb", "flood"):
        say(f"One tenant's {what} beside another's deliveries, 50 ms servers")
        with Serve("tiny", latency=50, workers=6) as serve:
            quiet = serve.tenant("quiet", concurrent_runs=2)
            loud = serve.tenant("loud", concurrent_runs=2)
            connection = serve.connect(quiet, "quiet", serve.projects[0])
            serve.wait_complete(connection)
            followed(serve, connection, serve.projects[0], 5)
            alone = followed(serve, connection, serve.projects[0], 100)
            ended, callers = threading.Event(), []
            if what == "flood":
                called = serve.connect(loud, "flood", serve.projects[1])
                serve.wait_complete(called)
                callers = flood(serve, called, serve.projects[1], ended)
                words = "beside 300 webhook calls a second of another tenant"
            else:
                puppet = serve.caller.api("POST", "/components", mapper, "application/wasm")["digest"]
                hostile = {"digest": puppet, "settings": {"rules": [{"has": "", "do": what}]}}
                for number in range(8):
                    serve.connect(loud, f"{what}-{number}", serve.projects[number % len(serve.projects)], [hostile], "5s")
                words = {
                    "loop": "beside two endless loops of another tenant",
                    "bomb": "beside mappers of another tenant that take all memory, two at a time",
                }[what]
            time.sleep(3)
            computed, began = serve.cpu(), time.monotonic()
            beside = followed(serve, connection, serve.projects[0], 100)
            load = (serve.cpu() - computed) / (time.monotonic() - began)
            ended.set()
            for caller in callers:
                caller.join()
            was, now = percentile(alone, 0.95), percentile(beside, 0.95)
            row("delivery to receipt, alone", f"p95 {milliseconds(was)}", f"p50 {milliseconds(statistics.median(alone))}, {len(alone)} deliveries")
            row(words, f"p95 {milliseconds(now)}", f"{(now / was - 1) * 100:+.0f} % (target: at most +20 %); {load:.2f} cores busy")


def write():
    path = os.path.join(ROOT, "bench", "PLATFORM-postgresql.md" if DATABASE else "PLATFORM.md")
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    with open("/proc/cpuinfo") as file:
        processor = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "?")
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    with open(path, "w") as file:
        file.write("# `runtime serve`, measured\n\nWritten by `bench/serve.py` (make bench-platform); not by hand. Servers, clients and the platform share the cores.\n\n")
        file.write(f"| | |\n|---|---|\n| date | {now} |\n| machine | {processor}, {os.cpu_count()} cores, Linux {os.uname().release} |\n| commit | {commit} |\n| database | {'PostgreSQL' if DATABASE else 'SQLite'} |\n| load | {os.getloadavg()[0]:.1f} at the end |\n\n")
        file.write("| Measure | | |\n|---|---|---|\n")
        for line in rows:
            file.write("| " + " | ".join(line) + " |\n")
        file.write("\nWhat bounds each figure, and what ten machines would do: [docs/operations.md](../docs/operations.md#capacity).\n")
    say(f"written to {path}")


for size in SIZES:
    idle(size)
pages()
isolation()
write()
