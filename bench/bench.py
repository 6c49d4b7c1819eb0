#!/usr/bin/env python3
"""Measures the connector beside the vendor's and beside a plain script; see README.md in this folder.

`make bench` builds and calls it. QUICK=1: two minutes, without the vendor. FULL=1: the vendor at 10,000 records, too; FULL=enough: until it has
taken as long as the target asks.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time

import machinery
from machinery import Bench, ours, script, script_with_requests, vendor

QUICK = os.environ.get("QUICK", "") not in ("", "0")
# "1", or "enough": the vendor's is stopped when its target is met.
FULL = os.environ.get("FULL", "").replace("0", "")
PACKAGE = "cortexdb-connectors[gitlab]==0.2.22"
# GitLab and CortexDB, milliseconds for each answer.
LATENCY = (50, 20)

sections = []  # (heading, rows, notes)
started = time.monotonic()


def say(words):
    print(f"[{time.monotonic() - started:6.1f} s] {words}", flush=True)


def section(heading):
    say(heading)
    rows, notes = [], []
    sections.append((heading, rows, notes))
    return rows, notes


def row(rows, measure, target, ours, other="", ratio="", met=None):
    """One line of the result. `met` is None where there is nothing to compare with."""
    rows.append((measure, target, ours, other, ratio, "" if met is None else "yes" if met else "**no**"))
    say("  " + " | ".join(str(cell) for cell in rows[-1] if cell != ""))


def complete_run(bench, command):
    """A run that wrote as many records as there are."""
    done = bench.run(command)
    if done.stored != bench.items:
        raise SystemExit(f"bench: {' '.join(command)} stored {done.stored} of {bench.items} records")
    return done


def median_runs(bench, commands, turns, may_differ=()):
    """For each command (by its name; so many turns) the run of median wall time. They take turns, so that a neighbour on the machine disturbs
    all alike. Each writes as many records as there are, but for those that may differ."""
    runs = {name: [] for name in commands}
    for turn in range(max(turns.values())):
        for name, command in commands.items():
            if turn < turns[name]:
                runs[name].append(bench.run(command) if name in may_differ else complete_run(bench, command))
    medians = {}
    for name, done in runs.items():
        done.sort(key=lambda run: run.wall)
        medians[name] = run = done[len(done) // 2]
        run.spread = f"{done[0].wall:.2f} to {done[-1].wall:.2f} s in {len(done)} runs" if len(done) > 1 else "1 run"
    return medians


def walls(no_vendor):
    """Wall time against both others, and the requests that it took."""
    kept = {}
    for latency in ((0, 0), LATENCY):
        slow = latency != (0, 0)
        heading = f"Wall time, {latency[0]} ms GitLab and {latency[1]} ms CortexDB latency" if slow else "Wall time, servers without latency"
        rows, notes = section(heading)
        for name, size in (("1k", 1_000), ("10k", 10_000)):
            if QUICK and slow and size > 1_000:
                continue
            with Bench(size, *latency) as bench:
                scripts = {"the plain script": script()}
                if not no_vendor:
                    scripts["the plain script with requests"] = script_with_requests()
                # A script waits for every answer, one after the other: one run is enough to see that.
                turns = {"ours": 3 if QUICK or slow else 7, **dict.fromkeys(scripts, 1 if QUICK or slow else 7)}
                medians = median_runs(bench, {"ours": ours(), **scripts}, turns)
                mine = medians["ours"]
                for other in scripts:
                    plain = medians[other]
                    ratio = plain.wall / mine.wall
                    target, met = ("≥ 2.5×", ratio >= 2.5) if (size, slow) == (10_000, False) else ("", None)
                    row(rows, f"{name} against {other}", target, f"{mine.wall:.2f} s", f"{plain.wall:.2f} s", f"{ratio:.1f}×", met)
                notes.append(f"{name}: {bench.items} records; {', '.join(f'{one} {run.spread}' for one, run in medians.items())}.")
                goal = {("1k", False): 100, ("10k", False): 500, ("1k", True): 80, ("10k", True): 200}[name, slow]
                measure = f"{name} against the vendor's"
                theirs = None
                if no_vendor or (size > 1_000 and not FULL):
                    reason = no_vendor or "with FULL=1 or FULL=enough only"
                    row(rows, measure, f"≥ {goal}×", f"{mine.wall:.2f} s", f"not measured ({reason})")
                else:
                    enough = mine.wall * goal * 1.02 if size > 1_000 and FULL == "enough" else None
                    say(f"  the vendor's at {name}, which takes long")
                    theirs = bench.run(vendor(), stop_after=enough)
                    ratio, more = theirs.wall / mine.wall, "> " if theirs.stopped else ""
                    row(rows, measure, f"≥ {goal}×", f"{mine.wall:.2f} s", f"{more}{theirs.wall:.1f} s", f"{more}{ratio:.0f}×", ratio >= goal)
                    notes.append(
                        f"{name}: the vendor's stored {theirs.stored} experiences, which is a title and at most 500 characters each, confidential "
                        f"issues and running pipelines among them, and without the pipelines' details; ours stored {mine.stored} whole."
                    )
                    if theirs.stopped:
                        if theirs.stored == 0:
                            raise SystemExit(f"bench: the vendor's stored nothing in {enough:.0f} s:\n{theirs.output[-2000:]}")
                        notes.append(f"{name}: the vendor's was stopped then; FULL=1 lets it end.")
                        theirs = None  # Its requests are not all that it makes.
                kept[name, slow] = (mine, theirs, bench.items, bench.least, chain(bench))
    return kept


def chain(bench):
    """The longest chain of comments that answer each other, its root included."""
    before = {
        record["source_id"]: record["preceded_by"] for record in bench.gitlab.get(f"/_sim/expected?groups={bench.group}")
    }
    longest, lengths = 0, {}
    for record in before:
        line = []
        while record in before and record not in lengths:
            line.append(record)
            record = before[record]
        length = lengths.get(record, 0)
        for link in reversed(line):
            length += 1
            lengths[link] = length
        longest = max(longest, length)
    return longest


def requests(kept):
    rows, notes = section("Requests of a first reading")
    for (name, slow), (mine, theirs, items, least, longest) in kept.items():
        most = items // 200 + longest
        cortex = (f"≤ {most}", mine.cortex_requests, most, f"{mine.cortex_requests / most:.2f}×", mine.cortex_requests <= most)
        if slow:
            row(rows, f"{name}: CortexDB, with latency", *cortex)
            continue
        ratio = mine.gitlab_requests / least
        row(rows, f"{name}: GitLab, against the least that REST permits", "≤ 1.15×", mine.gitlab_requests, least, f"{ratio:.3f}×", ratio <= 1.15)
        if theirs:
            count = theirs.gitlab_requests
            row(rows, f"{name}: GitLab, against the vendor's", "below", mine.gitlab_requests, count, f"{mine.gitlab_requests / count:.2f}×", mine.gitlab_requests < count)
        row(rows, f"{name}: CortexDB, against records/200 + longest chain", *cortex)
        if theirs:
            row(rows, f"{name}: CortexDB, against the vendor's", "", mine.cortex_requests, theirs.cortex_requests, f"{mine.cortex_requests / theirs.cortex_requests:.3f}×")
    notes.append("The least: group and list pages of 100, discussions of what has comments, details of finished pipelines; counted from the world itself.")
    notes.append("The longest chain is that of the whole world, counted once. How many pages meet in one write depends on the machine, and with it this figure; tests assert the bound with the longest chain of each page.")
    notes.append("CortexDB's requests hold whoami and what the first run asks about the scopes that it finds.")


def idle():
    rows, notes = section("An idle poll over 500 projects of one group")
    with Bench("projects:500") as bench:
        bench.run(ours())
        poll = bench.run(ours(), again=True)
        row(rows, "GitLab requests", "≤ 12", poll.gitlab_requests, "", "", poll.gitlab_requests <= 12)
        row(rows, "CortexDB requests", "", poll.cortex_requests)
        row(rows, "wall time", "", f"{poll.wall:.2f} s")
        if poll.stored:
            raise SystemExit(f"bench: the idle poll stored {poll.stored} records")


def rate_limit():
    limit, minutes = 600, 2
    rows, notes = section(f"A rate limit of {limit} requests a minute")
    with Bench(10_000, rate_limit=limit) as bench:
        done = bench.run(ours(), stop_after=60 * minutes + 3)
        asked = bench.gitlab.get("/_sim/requests")
    seconds = [entry["since_start"]["secs"] + entry["since_start"]["nanos"] / 1e9 for entry in asked]
    within = [entry for entry, at in zip(asked, seconds) if at < seconds[0] + 60 * minutes]
    served = sum(entry["status"] == 200 for entry in within)
    refused = sum(entry["status"] == 429 for entry in within)
    allowed = limit * minutes
    row(rows, f"requests served in {minutes} minutes", "≥ 95 %", served, f"{allowed} allowed", f"{100 * served / allowed:.1f} %", served >= 0.95 * allowed)
    row(rows, "answers 429", "≤ 1", refused, "", "", refused <= 1)


def memory():
    rows, notes = section("Peak memory (VmHWM) of a first reading")
    sizes = {"1k": 1_000, "10k": 10_000} if QUICK else {"1k": 1_000, "10k": 10_000, "100k": 100_000}
    for name, (peak, ratio) in peaks(sizes, 1 if QUICK else 3).items():
        bound = name == "100k"
        row(rows, f"{name} records", "≤ 128 MiB" + (", ≤ 1.3× that of 1k" if bound else ""), f"{peak:.1f} MiB", "", f"{ratio:.2f}×", peak <= 128 and (not bound or ratio <= 1.3))
    # As a GitLab of the world sends them: its nginx compresses, and it is not on this machine.
    for name, (peak, ratio) in peaks(sizes, 1, *LATENCY, gzip=True).items():
        row(rows, f"{name} records, answers compressed and after 50 ms", "≤ 128 MiB", f"{peak:.1f} MiB", "", f"{ratio:.2f}×", peak <= 128)


def peaks(sizes, times, *latencies, gzip=False):
    """The median peak in MiB of some first readings of each of these, and its ratio to the first of them."""
    found = {}
    for name, size in sizes.items():
        with Bench(size, *latencies, gzip=gzip) as bench:
            runs = [complete_run(bench, ours()) for _ in range(times)]
        peak = statistics.median(run.peak_kib for run in runs) / 1024
        first = next(iter(found.values()), (peak, 1))[0]
        found[name] = (peak, peak / first)
    return found


def inside():
    rows, notes = section("Inside of the process")
    size, rounds = (2_000, 3) if QUICK else (10_000, 25)
    command = [os.path.join(machinery.BINARIES, "connector-bench"), machinery.COMPONENT, str(size), str(rounds)]
    done = machinery.run(command, {"XDG_CACHE_HOME": machinery.CACHE, "PATH": os.environ["PATH"]})
    if done.code != 0:
        raise SystemExit(f"bench: connector-bench failed:\n{done.output}")
    figures = json.loads(done.output.splitlines()[-1])
    for name, goal, words in (
        ("whole", 0.60, "Mapping, guest against native"),
        ("parse_and_build", 0.85, "Parse and build alone"),
        ("parse_and_build_without_epochs", 0.85, "Parse and build alone, without epochs"),
    ):
        found = figures[name]
        rate = [f"{found['records'] / found[side]:,.0f}/s" for side in ("guest_s", "native_s")]
        row(rows, words, f"≥ {goal:.2f}", rate[0], rate[1], f"{found['ratio']:.2f}", found["ratio"] >= goal)
    notes.append(
        f"Records a second in the sandbox with epochs on, against the same crate compiled natively (profile release); answers from memory, records thrown "
        f"away; {figures['whole']['bytes'] / 2**20:.1f} MiB of JSON for {figures['whole']['records']} records. Parse and build: a run that only lists, so that ids alone cross the border. "
        "Without epochs nothing would end a loop: the row says what of the difference is theirs, and no component is run like that."
    )
    engines = figures["engines"]
    rate = [f"{engines['records'] / engines[side]:,.0f}/s" for side in ("tenant_s", "first_party_s")]
    ratio = engines["first_party_s"] / engines["tenant_s"]
    row(rows, "Mapping, engine of tenants against that of the first party", "≥ 0.95", rate[0], rate[1], f"{ratio:.2f}", ratio >= 0.95)
    row(rows, "Cold compile of gitlab.wasm", "≤ 1 s", f"{figures['compile_s']:.2f} s", "", "", figures["compile_s"] <= 1)
    load = figures["load_s"]
    if load is not None:
        row(rows, "Compiled component loaded", "< 1 ms", f"{1000 * load:.2f} ms", "", "", load < 0.001)
    times = sorted(machinery.first_request() for _ in range(3 if QUICK else 9))
    start = statistics.median(times)
    row(rows, "`runtime run` to the first GitLab request", "≤ 50 ms", f"{1000 * start:.0f} ms", "", "", start <= 0.05)
    notes.append(f"The start: {1000 * times[0]:.0f} to {1000 * times[-1]:.0f} ms in {len(times)} runs, the component in the cache.")


def mappers():
    rows, notes = section("Through each example mapper, beside no mapper")
    size, times = (1_000, 1) if QUICK else (10_000, 3)
    with Bench(size) as bench:
        mapped = {}
        for name in ("rust", "javascript", "python", "wasi"):
            mapper = os.path.join(machinery.ROOT, "dist", "mappers", name + ".wasm")
            machinery.run([machinery.RUNTIME, "mapper", "check", mapper], {"XDG_CACHE_HOME": machinery.CACHE})
            mapped[name] = ours() + ["--mapper", mapper]
        commands = {"no mapper": ours(), **mapped}
        # A mapper makes as many experiences as it likes.
        medians = median_runs(bench, commands, dict.fromkeys(commands, times), may_differ=mapped)
        plain = medians["no mapper"]
        for name, run in medians.items():
            ratio = "" if run is plain else f"{plain.wall / run.wall:.2f}"
            row(rows, name, "", f"{bench.items / run.wall:,.0f}/s", f"{run.wall:.2f} s ({run.spread})", ratio)
    notes.append("Records of the source a second, a first reading of the whole world, written to CortexDB; with a mapper they are recorded, too. The ratio is that of the rates: 1 is as fast as without.")


def output_of(*command):
    try:
        return subprocess.run(command, cwd=machinery.ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def cpu_model():
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or "unknown"


def commit():
    changes = output_of("git", "status", "--porcelain", "--untracked-files=no")
    return output_of("git", "rev-parse", "--short", "HEAD") + (" with changes" if changes else "")


def report(no_vendor, load_before, measured):
    lines = ["# Results", ""]
    kind = "QUICK=1" if QUICK else f"FULL={FULL}" if FULL else "make bench"
    lines += [
        f"Written by `bench/bench.py` ({kind}); not by hand. A ratio compares runs of this session only. [README.md](README.md) says what is measured.",
        "",
        "| | |",
        "|---|---|",
        f"| date | {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, {(time.monotonic() - started) / 60:.0f} minutes |",
        f"| machine | {cpu_model()}, {os.cpu_count()} cores, {platform.system()} {platform.release()} |",
        f"| commit | {measured} |",
        f"| versions | {output_of(machinery.RUNTIME, '--version')}; {output_of('rustc', '--version')}; Python {platform.python_version()} |",
        f"| vendor's | {PACKAGE}{': ' + no_vendor if no_vendor else ''} |",
        f"| load before and after | {load_before[0]:.1f} and {os.getloadavg()[0]:.1f}: over {os.cpu_count()} somebody else was working too, and times are not to be trusted |",
        "",
        "The simulators run on the same cores as what is measured.",
    ]
    for heading, rows, notes in sections:
        lines += ["", f"## {heading}", "", "| Measure | Target | Ours | Other | Ratio | Met |", "|---|---|---|---|---|---|"]
        lines += ["| " + " | ".join(str(cell) for cell in cells) + " |" for cells in rows]
        if notes:
            lines += [""] + [f"* {note}" for note in notes]
    return "\n".join(lines) + "\n"


def main():
    if FULL not in ("", "1", "enough"):
        return f"bench: FULL={FULL} is none of 1 and enough"
    os.makedirs(machinery.FOLDER, exist_ok=True)
    load_before, measured = os.getloadavg(), commit()
    no_vendor = "left out of QUICK=1: it takes two minutes alone" if QUICK else machinery.make_vendor(PACKAGE)
    if no_vendor:
        say(f"the vendor's connector is left out: {no_vendor}")
    machinery.run([machinery.RUNTIME, "inspect", machinery.COMPONENT], {"XDG_CACHE_HOME": machinery.CACHE})
    kept = walls(no_vendor)
    requests(kept)
    idle()
    if not QUICK:
        rate_limit()
    memory()
    inside()
    mappers()
    text = report(no_vendor, load_before, measured)
    # A quick run says little about time: it does not replace what a real one found.
    path = os.path.join(machinery.FOLDER, "RESULTS-quick.md") if QUICK else os.path.join(machinery.ROOT, "bench", "RESULTS.md")
    with open(path, "w") as file:
        file.write(text)
    print(f"\n{text}\nwritten to {path}")


if __name__ == "__main__":
    sys.exit(main())
