#!/usr/bin/env python3
"""Benchmarks of a whole cluster on this machine, as ratios in one run.

    cargo build --profile dist && python3 bench/cluster.py [--sync-delay-ms 2]

Starts one peer, then three, on loopback; each figure is the median of its rounds.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
STINT = TARGET / "dist" / "stint"
PATIENCE_S = 120
# After the death of a leader a submit is accepted again within this, in seconds.
KILLS, MEDIAN_S, WORST_S = 20, 1.0, 2.0
LOG_BYTES = 100 * 2**20


def free_ports(count, kind=socket.SOCK_DGRAM):
    sockets = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Cluster:
    """Peers of one cluster; ends them when left."""

    def __init__(self, peers, sandbox, sync_delay_ms, executor="", slots=512):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="stint-bench-"))
        self.processes = []
        self.dirs = [self.root / f"b{n + 1}" for n in range(peers)]
        [self.http] = free_ports(1, socket.SOCK_STREAM)
        for folder, port in zip(self.dirs, free_ports(peers)):
            folder.mkdir()
            http = "" if self.processes else f"127.0.0.1:{self.http}"
            (folder / "stint.toml").write_text(
                f'[node]\nname = "{folder.name}"\ndata_dir = "{folder}"\n'
                f'[peers]\nlisten = "127.0.0.1:{port}"\nadvertise = "127.0.0.1:{port}"\n'
                f'[api]\nlisten = ""\n[http]\nlisten = "{http}"\n'
                f"[raft]\nextra_sync_delay_ms = {sync_delay_ms}\n"
                f'[executor]\nruntimes = ["process", "mock"]\nsandbox = {str(sandbox).lower()}\n'
                f'cpus = 1000\nmemory = "1000GiB"\nslots = {slots}\ngpus = "none"\n' + executor
            )
            if not self.processes:
                self.first = port
                self.processes.append(self.spawn(folder, "--bootstrap"))
                self.ready(1)
                asked = ["--output", "json", "cluster", "join-token"]
                # An older build, measured beside this one, lets in any number.
                token = json.loads(self.stint(*asked, "--uses", "100", check=False) or self.stint(*asked))["token"]
            else:
                self.processes.append(self.spawn(folder, "--join", f"127.0.0.1:{self.first}", "--token", token))
        self.ready(peers)

    def spawn(self, folder, *words):
        log = open(folder / "log", "ab")
        command = [STINT, "node", "--config", folder / "stint.toml", *words]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)

    def stint(self, *words, check=True):
        address = ",".join(f"unix:{folder}/stint.sock" for folder in self.dirs)
        done = subprocess.run([STINT, "--address", address, *words], capture_output=True, text=True)
        if check and done.returncode != 0:
            raise SystemExit(f"stint {' '.join(map(str, words[:3]))}: exit {done.returncode}: {done.stderr.strip()[-500:]}; see {self.root}")
        return done.stdout

    def ready(self, peers):
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            out = self.stint("--output", "json", "nodes", check=False)
            if out and sum(n["state"] == "ready" for n in json.loads(out)) == peers:
                return
            time.sleep(0.05)
        raise SystemExit("the cluster does not come up: see " + str(self.root))

    def metric(self, name):
        """A number that the first peer tells: asking costs it about half a millisecond."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith(name + " ")))

    def finished(self):
        """Tasks that ever finished."""
        return self.metric("stint_tasks_finished")

    def burst(self, count, *task):
        """Seconds from submitting `count` tasks until all are finished."""
        before = self.finished()
        begun = time.monotonic()
        for part in range(0, count, 10_000):
            words = ["submit", "--count", str(min(10_000, count - part)), *task]
            subprocess.run([STINT, "--address", f"unix:{self.dirs[0]}/stint.sock", *words], check=True, stdout=subprocess.DEVNULL)
        while self.finished() < before + count:
            if time.monotonic() - begun > PATIENCE_S:
                raise SystemExit("tasks do not finish: see " + str(self.root))
            time.sleep(0.05)
        return time.monotonic() - begun

    def memory_mib(self, place, key="VmRSS"):
        status = pathlib.Path(f"/proc/{self.processes[place].pid}/status").read_text()
        return int(next(l.split()[1] for l in status.splitlines() if l.startswith(key))) / 1024

    def largest_mib(self):
        return max(self.memory_mib(place) for place in range(len(self.processes)))

    def forget_peak(self, place):
        """From here on the peak of a peer's memory (VmHWM) is counted anew; answers what it holds now, in MiB."""
        pathlib.Path(f"/proc/{self.processes[place].pid}/clear_refs").write_text("5")
        return self.memory_mib(place)

    def leader(self):
        """The place of the leading peer."""
        status = json.loads(self.stint("--output", "json", "cluster", "status"))
        name = next(p["name"] for p in status["peers"] if p["id"] == status["leader_id"])
        return next(n for n, folder in enumerate(self.dirs) if folder.name == name)

    def failover(self, *task):
        """Seconds from kill -9 of the leader until a submit through a surviving peer is accepted."""
        place = self.leader()
        survivor = self.dirs[(place + 1) % len(self.dirs)]
        self.processes[place].kill()
        begun = time.monotonic()
        subprocess.run([STINT, "--address", f"unix:{survivor}/stint.sock", "submit", *task], check=True, capture_output=True)
        took = time.monotonic() - begun
        self.processes[place].wait()
        self.processes[place] = self.spawn(self.dirs[place])
        self.ready(len(self.dirs))
        return took

    def close(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=PATIENCE_S)
        shutil.rmtree(self.root, ignore_errors=True)


def xargs(count, *program):
    begun = time.monotonic()
    numbers = "\n" * count
    subprocess.run(["xargs", "-P4", "-d", "\n", "-I{}", *program], input=numbers.replace("\n", "x\n"), text=True, check=True)
    return time.monotonic() - begun


def median(measure, rounds):
    return statistics.median(measure() for _ in range(rounds))


def latency(cluster, rounds):
    times = []
    for _ in range(rounds):
        begun = time.monotonic()
        cluster.stint("run", "--class", "cpu_short", "--cpus", "0.1", "--memory", "16MiB", "--", "/bin/true")
        times.append((time.monotonic() - begun) * 1000)
    times.sort()
    return statistics.median(times), times[int(len(times) * 0.99)]


def logs(args):
    """100 MiB of output of a task on one peer, followed through another one while it is written."""
    cluster = Cluster(3, sandbox=True, sync_delay_ms=args.sync_delay_ms, executor='max_log_bytes = "1GiB"\n')
    try:
        script = f"yes 'a line of output, as long as many are' | head -c {LOG_BYTES}"
        words = ["submit", "--class", "cpu_short", "--cpus", "2", "--memory", "64MiB", "--", "/bin/sh", "-c", script]
        rates, bare = [], []
        for _ in range(args.rounds):
            with open(cluster.root / "bare", "wb") as out:
                begun = time.monotonic()
                subprocess.run(["/bin/sh", "-c", script], stdout=out, check=True)
                bare.append(LOG_BYTES / 2**20 / (time.monotonic() - begun))
            before = [cluster.forget_peak(place) for place in range(3)]
            begun = time.monotonic()
            task = cluster.stint(*words).split()[0]
            places = {peer: f"unix:{folder}/stint.sock" for peer, folder in enumerate(cluster.dirs)}
            runs_on = None
            while runs_on is None:
                shown = json.loads(cluster.stint("--output", "json", "status", task))
                runs_on = next((a["node"] for a in shown["attempt_records"]), None)
            through = next(p for p, folder in enumerate(cluster.dirs) if folder.name != runs_on)
            follow = [STINT, "--address", places[through], "logs", "-f", task]
            reader = subprocess.Popen(follow, stdout=subprocess.PIPE)
            read = 0
            while chunk := reader.stdout.read(1 << 20):
                read += len(chunk)
            took = time.monotonic() - begun
            if reader.wait() != 0 or read != LOG_BYTES:
                raise SystemExit(f"{read} bytes of output were read, {LOG_BYTES} written: see {cluster.root}")
            rates.append(LOG_BYTES / 2**20 / took)
            grown = max(cluster.memory_mib(place, "VmHWM") - old for place, old in enumerate(before))
        print(
            f"100 MiB of output through another peer: {statistics.median(rates):.0f} MiB/s from the submit to the last byte, "
            f"into a file alone {statistics.median(bare):.0f} MiB/s; no peer grew by more than {grown:.0f} MiB at any time"
        )
    finally:
        cluster.close()


def queue(args):
    """How soon a task starts that fits, behind as many as the cluster takes that fit nowhere: 5,000 different demands."""
    cluster = Cluster(3, sandbox=False, sync_delay_ms=args.sync_delay_ms)
    try:
        p50, p99 = latency(cluster, 100)
        print(f"an empty queue: one `stint run /bin/true` p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        submits, each = args.submits, 199
        address = ",".join(f"unix:{folder}/stint.sock" for folder in cluster.dirs)
        # Every second one waits for a label that no node has, the others for more than any node has.
        def words(n):
            fits_not = ["--constraint", "zone=nowhere", "--cpus", "0.1"] if n % 2 else ["--cpus", "5000"]
            return f"submit --class cpu_short --count {each} --memory {n + 16}MiB {' '.join(fits_not)} -- /bin/true"
        script = f"exec {STINT} --address {address} $0"
        begun = time.monotonic()
        subprocess.run(
            ["xargs", "-P4", "-d", "\n", "-I{}", "sh", "-c", script, "{}"],
            input="\n".join(words(n) for n in range(submits)) + "\n", text=True, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        print(f"{submits * each:,} tasks of {submits:,} submits wait, accepted in {time.monotonic() - begun:.0f} s; largest peer {cluster.largest_mib():.0f} MiB")
        p50, p99 = latency(cluster, 100)
        print(f"behind them: one `stint run /bin/true` p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        task = ["--class", "cpu_short", "--runtime", "mock", "--cpus", "0.1", "--memory", "1MiB", "--", "run=0ms"]
        print(f"kill -9 of the leader: a submit is accepted again after {cluster.failover(*task):.2f} s")
        p50, p99 = latency(cluster, 20)
        print(f"under the new leader: one `stint run /bin/true` p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    finally:
        cluster.close()


def finished(args):
    """What a million finished tasks take, and how soon they are listed."""
    cluster = Cluster(3, sandbox=False, sync_delay_ms=args.sync_delay_ms)
    try:
        cluster.stint("cluster", "set", f"keep_finished={args.tasks}")
        mock = ["--class", "cpu_short", "--runtime", "mock", "--cpus", "0.1", "--memory", "1MiB", "--", "run=0ms"]
        done = 0
        for part in (args.tasks // 10, args.tasks // 2, args.tasks):
            while done < part:
                cluster.burst(min(10_000, part - done), *mock)
                done += min(10_000, part - done)
            held = [cluster.memory_mib(place) for place in range(3)]
            begun = time.monotonic()
            listed = len(cluster.stint("ps", "-a", "--limit", "1000", "-o", "quiet").split())
            print(
                f"{done:,} finished tasks: peers hold {', '.join(f'{mib:.0f}' for mib in sorted(held))} MiB; "
                f"{listed} of them listed in {time.monotonic() - begun:.2f} s"
            )
    finally:
        cluster.close()


class Probe:
    """Asks for a small change again and again, and keeps how long the slowest answer of each stretch took."""

    def __init__(self, cluster):
        self.cluster, self.slowest, self.failed, self.stopped = cluster, 0.0, 0, threading.Event()
        self.thread = threading.Thread(target=self.ask)
        self.thread.start()

    def ask(self):
        # Each goes through the leader's queue and the log; the key makes one task of all of them, and no node fits it.
        task = ["--class", "cpu_short", "--cpus", "0.01", "--memory", "16MiB", "--constraint", "zone=nowhere"]
        while not self.stopped.wait(0.02):
            begun = time.monotonic()
            if not self.cluster.stint("submit", "--idempotency-key", "probe", *task, "--", "/bin/true", check=False):
                self.failed += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)

    def stretch(self):
        """The slowest answer since the last time, in milliseconds, and how many asked in vain."""
        slowest, failed, self.slowest, self.failed = self.slowest, self.failed, 0.0, 0
        return f"slowest submit {slowest * 1000:.0f} ms, {failed} failed"

    def stop(self):
        self.stopped.set()
        self.thread.join()


def live(args):
    """A million tasks that are not finished, a tenth of them running: whatever is done to all of them."""
    # One less of each: the cluster takes a million, and the probe's is one of them.
    submits, each = args.submits, args.tasks // args.submits - 1
    total = submits * each
    cluster = Cluster(3, sandbox=False, sync_delay_ms=args.sync_delay_ms, slots=args.tasks // 30 + 1)
    sockets = ",".join(f"unix:{folder}/stint.sock" for folder in cluster.dirs)

    def terms():
        return json.loads(cluster.stint("--output", "json", "cluster", "status"))["term"]

    def step(name, act, probe=None):
        term, begun = terms(), time.monotonic()
        act()
        took = time.monotonic() - begun
        slow = f"; {probe.stretch()}" if probe else ""
        print(f"{name}: {took:.1f} s{slow}; {terms() - term} elections; largest peer {cluster.largest_mib():.0f} MiB", flush=True)

    def until(what, is_so, patience=1_200):
        end = time.monotonic() + patience
        while not is_so():
            if time.monotonic() > end:
                raise SystemExit(f"{what}: not within {patience} s; see {cluster.root}")
            time.sleep(0.1)

    def submit():
        def words(n):
            return f"--count {each} --class cpu_long --runtime mock --cpus 0.01 --memory {1024 + n}KiB -- hang"
        subprocess.run(
            ["xargs", "-P4", "-d", "\n", "-I{}", "sh", "-c", f"exec {STINT} --address {sockets} submit $0", "{}"],
            input="\n".join(words(n) for n in range(submits)) + "\n", text=True, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )

    def restart():
        for process in cluster.processes:
            process.kill()
        for process in cluster.processes:
            process.wait()
        cluster.processes = [cluster.spawn(folder) for folder in cluster.dirs]
        cluster.ready(3)

    def expire():
        """All nodes are away for longer than a lease: everything that ran is lost, and runs again."""
        for process in cluster.processes:
            process.kill()
        for process in cluster.processes:
            process.wait()
        time.sleep(20)
        cluster.processes = [cluster.spawn(folder) for folder in cluster.dirs]
        cluster.ready(3)

    def cancel():
        for state in ("queued", "running"):
            while ids := cluster.stint("ps", "--state", state, "--limit", "10000", "-o", "quiet").split():
                cluster.stint("cancel", *ids, "-o", "quiet")

    try:
        running = lambda: cluster.metric("stint_attempts_leased") >= args.tasks // 10
        probe = Probe(cluster)
        step(f"{total:,} tasks of {submits:,} submits accepted", submit, probe)
        step(f"{args.tasks // 10:,} of them running", lambda: until("start", running), probe)
        step("30 s of rest", lambda: time.sleep(30), probe)
        step("1,000 running ones listed", lambda: cluster.stint("ps", "--state", "running", "--limit", "1000"), probe)
        step("snapshot saved", lambda: cluster.stint("cluster", "snapshot", "save", str(cluster.root / "file")), probe)
        probe.stop()
        step("all peers killed and back", restart)
        probe = Probe(cluster)
        step("all running again", lambda: until("run again", running), probe)
        probe.stop()
        step("all peers away for 20 s and back", expire)
        probe = Probe(cluster)
        step("all running again", lambda: until("run again", running), probe)
        step("all cancelled", cancel, probe)
        step("all finished", lambda: until("end", lambda: cluster.finished() >= total), probe)
        probe.stop()
    finally:
        cluster.close()


def endings(args):
    """How soon the other peers tell what a task wrote last, left as JSON and said to be its result, when its node is gone."""
    cluster = Cluster(3, sandbox=False, sync_delay_ms=args.sync_delay_ms)
    try:
        script = "seq 2000; echo '__STINT_RESULT__:{\"score\": 0.75}'; seq 500; echo '{\"loss\": 0.5}' >metrics.json"
        words = ["--class", "cpu_short", "--runtime", "process", "--cpus", "0.1", "--memory", "16MiB", "--output-file", "metrics.json"]
        lost = next(place for place in range(3) if place != cluster.leader())
        others = [place for place in range(3) if place != lost]
        for place in others:
            cluster.stint("node", "cordon", cluster.dirs[place].name)
        tasks = cluster.stint("submit", "--count", "20", *words, "-o", "quiet", "--", "/bin/sh", "-c", script).split()
        cluster.stint("wait", *tasks)

        def asked(place, *words):
            begun = time.monotonic()
            told = subprocess.run([STINT, "--address", f"unix:{cluster.dirs[place]}/stint.sock", *words], check=True, capture_output=True).stdout
            return json.loads(told), (time.monotonic() - begun) * 1000

        def told(what):
            results, states = [], []
            for task in tasks:
                for place in others:
                    result, took = asked(place, "result", task)
                    kept = result["result"]
                    if not result["logs"]["stdout_tail"] or not kept.get("runner_output") or not kept.get("json"):
                        raise SystemExit(f"an ending is not told by {cluster.dirs[place].name}: {result}")
                    results.append(took)
                    # The same but for the ending: a command is started, a peer asked, and its state read.
                    states.append(asked(place, "--output", "json", "status", task)[1])
            results.sort()
            more = statistics.median(results) - statistics.median(states)
            print(
                f"{what}: `stint result` through another peer p50 {statistics.median(results):.1f} ms, "
                f"p99 {results[int(len(results) * 0.99)]:.1f} ms; {more:+.1f} ms beside `stint status`, which reads no ending", flush=True
            )

        told("the node is there")
        cluster.processes[lost].kill()
        cluster.processes[lost].wait()
        told("its node was killed a moment ago")
        time.sleep(3)
        told("its node is known to be lost")
    finally:
        cluster.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sync-delay-ms", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[*MEASURES])
    parser.add_argument("--submits", type=int, default=5_000, help="submits of 199 tasks each that wait, for the queue; of all tasks, for live ones")
    parser.add_argument("--tasks", type=int, default=1_000_000, help="for finished and live ones")
    parser.add_argument("--profile", default="dist", help="which build of stint to measure")
    parser.add_argument("--check", action="store_true", help="fail when a submit is accepted later than promised")
    args = parser.parse_args()
    print(f"sync delay {args.sync_delay_ms} ms, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    global STINT
    STINT = TARGET / args.profile / "stint"
    for name in [args.only] if args.only else ["speed", "failover", "logs", "queue"]:
        MEASURES[name](args)


def failover(args):
    cluster = Cluster(3, sandbox=True, sync_delay_ms=args.sync_delay_ms)
    try:
        task = ["--class", "cpu_short", "--runtime", "mock", "--cpus", "0.1", "--memory", "1MiB", "--", "run=0ms"]
        times = sorted(cluster.failover(*task) for _ in range(KILLS))
        low, middle, high = times[0], statistics.median(times), times[-1]
        print(f"{KILLS} kills of the leader: a submit is accepted again after {low:.2f} s, median {middle:.2f} s, worst {high:.2f} s")
    finally:
        cluster.close()
    if args.check and (middle > MEDIAN_S or high > WORST_S):
        raise SystemExit(f"promised: within {MEDIAN_S} s in the median, {WORST_S} s at worst")


def speed(args):
    mock = ["--class", "cpu_short", "--runtime", "mock", "--cpus", "0.1", "--memory", "1MiB", "--", "run=0ms"]
    true = ["--class", "cpu_short", "--cpus", "0.1", "--memory", "16MiB", "--", "/bin/true"]
    for peers in (1, 3):
        cluster = Cluster(peers, sandbox=False, sync_delay_ms=args.sync_delay_ms)
        try:
            print(f"peers {peers}: fresh and idle, largest peer {cluster.largest_mib():.0f} MiB")
            seconds = median(lambda: cluster.burst(10_000, *mock), args.rounds)
            print(f"peers {peers}: 10,000 mock tasks {seconds:.2f} s = {10_000 / seconds:,.0f}/s")
            ratios = [cluster.burst(1_000, *true) / xargs(1_000, "/bin/true") for _ in range(args.rounds)]
            print(f"peers {peers}: 1,000 /bin/true, sandbox off, {statistics.median(ratios):.2f} x xargs -P4 ({ratios[-1]:.2f} last)")
            p50, p99 = latency(cluster, 50)
            print(f"peers {peers}: one `stint run /bin/true` p50 {p50:.1f} ms, p99 {p99:.1f} ms")
            cluster.burst(100_000 - 10_000 * args.rounds - 1_000 * args.rounds, *mock)
            print(f"peers {peers}: after about 100,000 finished tasks, largest peer {cluster.largest_mib():.0f} MiB")
        finally:
            cluster.close()
        cluster = Cluster(peers, sandbox=True, sync_delay_ms=args.sync_delay_ms)
        try:
            ratios = [cluster.burst(1_000, *true) / xargs(1_000, "unshare", "-pfm", "/bin/true") for _ in range(args.rounds)]
            print(f"peers {peers}: 1,000 /bin/true, sandboxed, {statistics.median(ratios):.2f} x xargs -P4 unshare -pfm")
        finally:
            cluster.close()


MEASURES = {"speed": speed, "failover": failover, "logs": logs, "queue": queue, "finished": finished, "live": live, "endings": endings}

if __name__ == "__main__":
    main()
