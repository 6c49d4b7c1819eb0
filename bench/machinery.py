"""Processes: the two simulators, and whatever is measured against them."""

import http.client
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
BINARIES = os.path.join(TARGET, "release")
FOLDER = os.path.join(TARGET, "bench")
RUNTIME = os.path.join(ROOT, "dist", "runtime")
COMPONENT = os.path.join(ROOT, "dist", "gitlab.wasm")
# Compiled components, kept between runs as they are on a user's machine.
CACHE = os.path.join(FOLDER, "cache")
VENV = os.path.join(FOLDER, "venv")
VENDOR = os.path.join(VENV, "bin", "cortexdb-sync")

TOKEN = "sim-token"
KEY = "bench-key-0123456789"


class Simulator:
    """One server, from start to end."""

    def __init__(self, name, *arguments):
        command = [os.path.join(BINARIES, name), "--listen", "127.0.0.1:0", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if " listening on " not in line:
            raise SystemExit(f"bench: {name} did not start")
        self.url = line.split()[-1]

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc, timeout=600)
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"bench: {method} {path} answers {answer.status} {text[:200]!r}")
        return json.loads(text)

    def get(self, path):
        return self.ask("GET", path)

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Run:
    """What became of one process."""

    def __init__(self, wall, code, peak_kib, output, stopped):
        self.wall, self.code, self.peak_kib, self.output, self.stopped = wall, code, peak_kib, output, stopped


def high_water(pid):
    """VmHWM of a process, in KiB."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("VmHWM"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def run(command, variables, stop_after=None):
    """Runs a command to its end, or asks it to stop after some seconds."""
    log = tempfile.TemporaryFile()
    started = time.monotonic()
    process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    ended = threading.Event()
    peaks, stopped = [0], threading.Event()

    def watch():
        while not ended.wait(0.01):
            peaks[0] = max(peaks[0], high_water(process.pid))
            if stop_after and not stopped.is_set() and time.monotonic() - started > stop_after:
                process.terminate()
                stopped.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    ended.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    # The kernel's own figure misses nothing, but a child starts with its parent's: it says something only above that.
    exact, own = usage.ru_maxrss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log.seek(0)
    peak = max(peaks[0], exact if exact > own else 0)
    return Run(wall, process.returncode, peak, log.read().decode(errors="replace"), stopped.is_set())


class Bench:
    """A GitLab of some size, and a fresh CortexDB and home folder for each run against it."""

    def __init__(self, size, gitlab_latency=0, cortex_latency=0, rate_limit=None, gzip=False):
        limits = (["--rate-limit", rate_limit] if rate_limit else []) + (["--gzip"] if gzip else [])
        self.gitlab = Simulator("gitlab-sim", "--seed", 7, "--size", size, "--latency-ms", gitlab_latency, *limits)
        self.cortex_latency = cortex_latency
        groups = self.gitlab.get("/_sim/world")["groups"]
        self.group = next(group["id"] for group in groups if group["full_path"] == "acme")
        self.least = self.gitlab.get(f"/_sim/least?groups={self.group}")["requests"]
        self.items = self.gitlab.get(f"/_sim/expected?groups={self.group}&count_only=true")["total"]
        self.cortex, self.home = None, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.fresh(start=False)
        self.gitlab.stop()

    def fresh(self, start=True):
        if self.cortex:
            self.cortex.stop()
            shutil.rmtree(self.home)
        self.cortex, self.home = None, None
        if start:
            # By hand alone the simulator checks envelopes faster: it shares the machine with what is measured.
            self.cortex = Simulator("cortex-sim", "--key", KEY, "--latency-ms", self.cortex_latency, "--no-schema-check")
            self.home = tempfile.mkdtemp(prefix="bench-home-")
            os.mkdir(os.path.join(self.home, ".cortexdb"))
            state = os.path.join(self.home, ".cortexdb", "state.json")
            with open(state, "w") as file:
                json.dump({"token": KEY, "user_id": "user:local", "scope": "org:acme/user:local"}, file)
            os.chmod(state, 0o600)

    def variables(self):
        return {
            "PATH": os.environ["PATH"],
            "HOME": self.home,
            "XDG_CACHE_HOME": CACHE,
            "GITLAB_URL": self.gitlab.url,
            "GITLAB_TOKEN": TOKEN,
            "GITLAB_GROUP_IDS": str(self.group),
            "CORTEXDB_URL": self.cortex.url,
            "CORTEXDB_API_KEY": KEY,
        }

    def run(self, command, again=False, stop_after=None):
        """One run; `again` keeps what an earlier one left behind."""
        if not again:
            self.fresh()
        self.gitlab.ask("POST", "/_sim/reset")
        before = self.cortex.get("/_sim/stats")
        done = run(command, self.variables(), stop_after)
        stats, after = self.gitlab.get("/_sim/stats"), self.cortex.get("/_sim/stats")
        done.gitlab_requests = sum(counter["requests"] for counter in stats["endpoints"].values())
        done.refused = sum(counter["statuses"].get("429", 0) for counter in stats["endpoints"].values())
        done.cortex_requests = after["requests"] - before["requests"]
        done.stored = after["live_events"] - before["live_events"]
        if done.code != 0 and not done.stopped:
            raise SystemExit(f"bench: {' '.join(command)} ended with {done.code}:\n{done.output[-2000:]}")
        return done


def ours():
    return [RUNTIME, "run", COMPONENT]


def script():
    return [sys.executable, os.path.join(ROOT, "bench", "sequential.py")]


def script_with_requests():
    """With the library that most such scripts use; the vendor's environment has it."""
    return [os.path.join(VENV, "bin", "python"), *script()[1:], "requests"]


def vendor():
    # Without --since it leaves out what is older than 90 days.
    return [VENDOR, "sync", "gitlab", "--since", "2000-01-01T00:00:00Z"]


def make_vendor(package):
    """The vendor's program in an environment of its own; says why not, where it cannot be had."""
    if os.access(VENDOR, os.X_OK):
        return None
    made = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True)
    if made.returncode == 0:
        pip = [os.path.join(VENV, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", package]
        made = subprocess.run(pip, capture_output=True, text=True)
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        return f"cannot be installed: {(made.stderr or made.stdout).strip().splitlines()[-1:]}"
    return None


def first_request():
    """Seconds from the start of `runtime run` to the arrival of its first request to GitLab."""
    listener = socket.create_server(("127.0.0.1", 0))
    arrived = []

    def answer():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if connection.recv(65536):
                    arrived.append(time.monotonic())
                body = b'{"message":"401 Unauthorized"}'
                head = b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                connection.sendall(head % len(body) + body)

    threading.Thread(target=answer, daemon=True).start()
    cortex = Simulator("cortex-sim", "--key", KEY)
    home = tempfile.mkdtemp(prefix="bench-home-")
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": home,
        "XDG_CACHE_HOME": CACHE,
        "GITLAB_URL": "http://127.0.0.1:%d" % listener.getsockname()[1],
        "GITLAB_TOKEN": TOKEN,
        "GITLAB_PROJECT_IDS": "1",
        "CORTEXDB_URL": cortex.url,
        "CORTEXDB_API_KEY": KEY,
        "CORTEXDB_SCOPE_TEMPLATE": "org:acme/source:gitlab",
    }
    started = time.monotonic()
    done = run(ours(), variables)
    listener.close()
    cortex.stop()
    shutil.rmtree(home)
    if not arrived:
        raise SystemExit(f"bench: no request arrived:\n{done.output[-2000:]}")
    return arrived[0] - started
