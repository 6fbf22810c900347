#!/usr/bin/env python3
"""What holds on cgroup version 2 with systemd, checked in a virtual machine by its service `checks.service`.

Each check prints one line; the last line counts them. Every wait has its deadline."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback

import settings

HERE = os.path.dirname(os.path.abspath(__file__))
STINT = "/usr/local/bin/stint"
ROOT = "/sys/fs/cgroup"
RUNTIMES = ("process", "crun")
MIB = 1 << 20
# How long anything may take before it counts as hung.
PATIENCE_S = 20 * settings.slowness
LEASE_S = 4 + 2 * settings.slowness
CONFIG = """
[node]
name = "vm"
data_dir = "{data}"
[peers]
listen = "127.0.0.1:7001"
advertise = "127.0.0.1:7001"
[api]
listen = ""
[http]
listen = ""
[raft]
profile = "wan"
[executor]
runtimes = ["process", "crun"]
cpus = 8
memory = "1GiB"
gpus = "none"
[executor.process]
swap = "64MiB"
[executor.crun]
swap = "64MiB"
[classes.cpu_short]
runtimes = ["process", "crun"]
lease_ttl = "{lease}s"
"""

checks = []


def check(function):
    checks.append(function)
    return function


class Wrong(Exception):
    """Something is not as it should be."""


def expect(true, *said):
    if not true:
        raise Wrong(" ".join(str(word) for word in said))


def until(what, look, seconds=PATIENCE_S):
    """What `look` gives as soon as it gives anything."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        expect(time.monotonic() < end, "not within", seconds, "s:", what)
        time.sleep(0.05)


def done(*words):
    """Output of a command that succeeds."""
    process = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    expect(process.returncode == 0, *words, "exits with", process.returncode, process.stdout, process.stderr)
    return process.stdout


def read(path):
    with open(path) as file:
        return file.read().strip()


def members(cgroup):
    """Ids of its processes; none when it goes away."""
    try:
        return read(f"{cgroup}/cgroup.procs").split()
    except OSError:
        return []


class Peer:
    """One peer and its folder."""

    def __init__(self, name):
        self.data = f"/var/lib/{name}"
        self.config = f"/etc/stint/{name}.toml"
        os.makedirs("/etc/stint", exist_ok=True)
        with open(self.config, "w") as file:
            file.write(CONFIG.format(data=self.data, lease=LEASE_S))

    def stint(self, *words):
        return done(STINT, "--address", f"unix:{self.data}/stint.sock", *words)

    def ready(self):
        # Asking costs more than looking.
        until("its socket", lambda: os.path.exists(f"{self.data}/stint.sock"))

        def look():
            words = [STINT, "--address", f"unix:{self.data}/stint.sock", "-o", "json", "nodes"]
            process = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
            return process.returncode == 0 and any(node["state"] == "ready" for node in json.loads(process.stdout))
        until("the node is ready", look)

    def submit(self, runtime, words, *flags, cpus="2"):
        amounts = ["--cpus", cpus, "--memory", "64MiB"]
        return self.stint("submit", "-o", "quiet", "--runtime", runtime, *amounts, *flags, "--", *words).strip()

    def result(self, task):
        return json.loads(self.stint("result", task))

    def finish(self, task, seconds=PATIENCE_S):
        """The result, once it has one."""
        subprocess.run([STINT, "--address", f"unix:{self.data}/stint.sock", "wait", task, "--timeout", f"{seconds}s"],
                       capture_output=True, timeout=seconds + PATIENCE_S)
        result = self.result(task)
        expect(result["status"] in ("completed", "failed"), "not finished within", seconds, "s:", result)
        return result

    def run(self, runtime, words, *flags, **amounts):
        return self.finish(self.submit(runtime, words, *flags, **amounts))

    def attempts(self):
        """The cgroups of attempts."""
        inside = [f"{folder}/{name}" for folder in self.folders() for name in os.listdir(folder)]
        return [path for path in inside if os.path.isdir(path)]

    def folders(self):
        """The cgroups that hold those of attempts."""
        return [path for path, _, _ in os.walk(ROOT) if re.fullmatch("stint-[0-9a-f]{8}", os.path.basename(path))]

    def running(self):
        """The cgroup of the one attempt that runs."""
        return until("a cgroup with processes", lambda: [a for a in self.attempts() if members(a)])[0]

    def gone(self):
        until("the cgroups of attempts are removed", lambda: not self.attempts())

    def watchdog(self):
        words = f"shim\0--data-dir\0{self.data}"
        found = [pid for pid, line in commands() if words in line]
        return found[0] if found else None

    def leave(self):
        """Ends the watchdog; nothing of ours remains."""
        pid = self.watchdog()
        if pid:
            os.kill(pid, signal.SIGTERM)
        until("the watchdog and its cgroup are gone", lambda: not self.watchdog() and not self.folders())


def commands():
    """Process ids and command lines, as in /proc."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline") as file:
                    yield int(name), file.read()
            except OSError:
                pass


def named(program):
    return [pid for pid, line in commands() if line.split("\0")[0].endswith("/" + program)]


def alive(mark):
    """Processes of a task that has this word on its command line; not those of Stint."""
    return [pid for pid, line in commands() if mark in line.split("\0") and not line.startswith(STINT)]


# A tree of three processes, one of which left its parent and session; they ignore TERM, and each says that it is there.
TREE = """
use POSIX;
$SIG{TERM} = 'IGNORE';
$| = 1;
sub stay { print "here\\n"; sleep 1000 while 1 }
if (!fork) { POSIX::setsid(); stay unless fork; exit }
stay unless fork;
stay;
"""
# As many children as may be, and their number.
FORKS = "my $n = 0; while ($n < 400) { my $p = fork; last unless defined $p; if (!$p) { sleep 1000; exit } $n++ } print $n"
# Half a second of CPU time, and how long it took.
BUSY = """
sub up { open my $file, '<', '/proc/uptime'; (split ' ', <$file>)[0] }
sub used { (times)[0] + (times)[1] }
my ($start, $end) = (up, used() + 0.5);
while (used() < $end) {}
print up() - $start;
"""


def perl(text, *words):
    return ["/usr/bin/perl", "-e", text, *words]


def fills(mib):
    return f"my $x = ''; vec($x, ({mib} << 20) - 1, 8) = 1; exit 7"


def memory(peer, runtime):
    """Out of memory is told apart, also when a child ran out and its parent would have ended well."""
    result = peer.run(runtime, ["/bin/sh", "-c", '"$@"; exit 0', "hidden", *perl(fills(80))])
    expect(result["phase"] == "failed" and result["error"]["kind"] == "oom_killed", "out of memory:", result)
    peer.gone()


def limits(peer, runtime):
    """Swap, processes and CPU."""
    result = peer.run(runtime, perl(fills(80)), "--swap", "64MiB")
    expect(result["exit_code"] == 7, "with swap:", result)
    result = peer.run(runtime, perl(FORKS), "--pids", "20")
    counted = int(result["logs"]["stdout_tail"] or 0)
    expect(result["phase"] == "succeeded" and 10 <= counted < 20, "processes under a limit of 20:", result)
    # Half a processor.
    result = peer.run(runtime, perl(BUSY), cpus="0.5")
    expect(float(result["logs"]["stdout_tail"] or 0) > 0.8, "half a second of CPU time:", result)
    task = peer.submit(runtime, ["/bin/sleep", "1000"], "--swap", "8MiB", "--pids", "30", cpus="0.5")
    attempt = peer.running()
    # With the attempt's init.
    files = {"cpu.max": "50000 100000", "pids.max": "31", "memory.max": str(64 * MIB), "memory.swap.max": str(8 * MIB)}
    seen = {name: read(f"{attempt}/{name}") for name in files}
    peer.stint("cancel", task)
    expect(seen == files, "limits of its cgroup:", seen)
    peer.finish(task)
    peer.gone()


def endings(peer, runtime):
    """The whole tree goes with a timeout and with a cancel."""
    for way in ("timed_out", "cancelled"):
        mark = f"mark-{runtime}-{way}"
        flags = ["--timeout", f"{3 + settings.slowness}s"] if way == "timed_out" else []
        task = peer.submit(runtime, perl(TREE, mark), "--stop-grace", "1s", *flags)
        if way == "cancelled":
            until("three processes", lambda: len(alive(mark)) == 3)
            peer.stint("cancel", task)
        result = peer.finish(task)
        expect(result["phase"] == way, way, result)
        expect(way == "cancelled" or result["logs"]["stdout_tail"] == 3 * "here\n", "all had started:", result)
        expect(not alive(mark), "left of a task that is", way, alive(mark))
        peer.gone()


def usage(peer, runtime):
    """CPU time, memory and bytes are told, also of what is killed with its parent and that nobody waits for."""
    words = ["/bin/sh", "-c", 'dd if=/dev/zero of=kept bs=1M count=6 conv=fsync 2>/dev/null; "$@"; kill -9 $$', "x",
             *perl("my $x = ''; vec($x, (24 << 20) - 1, 8) = 1; while ((times)[0] + (times)[1] < 0.4) {}")]
    result = peer.run(runtime, words)
    used = result["result"]["metrics"]
    expect(used and None not in used.values(), "not all is told:", result)
    expect(380 <= used["cpu_ms"] < 2000 * settings.slowness, "CPU time:", used)
    expect(24 * MIB <= used["peak_memory_bytes"] <= 64 * MIB, "peak memory:", used)
    expect(6 * MIB <= used["written_bytes"] < 12 * MIB, "bytes written:", used)
    peer.gone()


# The unit that operators get, with its peer and the first start.
service = Peer("stint")


def override(*lines):
    folder = "/etc/systemd/system/stint.service.d"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/override.conf", "w") as file:
        file.write("\n".join(["[Service]", *lines, ""]))
    done("systemctl", "daemon-reload")


def main_pid():
    return int(done("systemctl", "show", "--value", "--property=MainPID", "stint.service"))


def one_of_each(words):
    """A running task of each runtime: their ids, and the processes of their cgroups."""
    tasks = [service.submit(runtime, words) for runtime in RUNTIMES]
    until("each runs", lambda: all(service.result(task)["phase"] == "running" for task in tasks))
    return tasks, until("their processes", lambda: processes(len(tasks)))


def processes(cgroups):
    """Ids of the processes of attempts, when so many cgroups have some."""
    found = [members(attempt) for attempt in service.attempts()]
    return {pid for pids in found for pid in pids} if sum(map(bool, found)) == cgroups else None


@check
def systemd_and_cgroup_version_2():
    expect(read("/proc/1/comm") == "systemd", "process 1")
    mounts = [line.split()[2] for line in read("/proc/mounts").splitlines() if "cgroup" in line.split()[2]]
    expect(mounts == ["cgroup2"], "cgroups:", mounts)


@check
def the_unit_starts_a_node_that_enforces_all():
    shutil.copy(f"{HERE}/stint.service", "/etc/systemd/system/stint.service")
    override("ExecStart=", f"ExecStart={STINT} node --config {service.config} --bootstrap")
    done("systemctl", "start", "stint.service")
    service.ready()
    override("ExecStart=", f"ExecStart={STINT} node --config {service.config}")
    nodes = json.loads(service.stint("-o", "json", "nodes"))
    expect(nodes[0]["problems"] == [], "what is not enforced:", nodes)


for _runtime in RUNTIMES:
    for _what in (memory, limits, endings, usage):
        def _one(runtime=_runtime, what=_what):
            what(service, runtime)
        _one.__name__ = f"{_what.__name__}_of_{_runtime}_under_the_unit"
        check(_one)


@check
def a_killed_node_and_a_restart_of_the_unit_leave_what_runs():
    tasks, _ = one_of_each(["/bin/sleep", "1000"])
    before = until("both programs", lambda: len(named("sleep")) == 2 and named("sleep"))
    killed = main_pid()
    os.kill(killed, signal.SIGKILL)
    until("systemd starts it again", lambda: main_pid() not in (0, killed))
    service.ready()
    again = main_pid()
    done("systemctl", "restart", "stint.service")
    expect(main_pid() not in (0, again), "the same process as before the restart")
    service.ready()
    # What is not adopted ends with the lease that it had.
    time.sleep(LEASE_S + 1)
    expect(named("sleep") == before, "other programs than before:", named("sleep"), before)
    service.stint("cancel", *tasks)
    for result in map(service.finish, tasks):
        expect(result["phase"] == "cancelled" and result["attempts"] == 1, "adopted:", result)
    service.gone()
    # systemd owns the cgroups above: what it does to them does not take the controllers away.
    done("systemctl", "daemon-reload")
    memory(service, "process")


@check
def attempts_of_a_killed_watchdog_are_gone_and_run_again():
    tasks, before = one_of_each(["/bin/sh", "-c", "[ $STINT_ATTEMPT != 1 ] || exec sleep 1000"])
    os.kill(service.watchdog(), signal.SIGKILL)
    until("the first attempts are gone", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in before))
    for result in map(service.finish, tasks):
        expect(result["phase"] == "succeeded" and result["attempts"] == 2, "tried again:", result)
    service.gone()


@check
def leases_of_a_stopped_unit_end_and_nothing_is_left():
    mark = "mark-stop"
    tasks = [service.submit(runtime, perl(TREE, mark), "--stop-grace", "1s") for runtime in RUNTIMES]
    until("both run", lambda: len(alive(mark)) == 6)
    done("systemctl", "stop", "stint.service")
    expect(len(alive(mark)) == 6, "tasks end with the node, not with their leases")
    until("they end with their leases", lambda: not alive(mark), LEASE_S + PATIENCE_S)
    service.gone()
    done("systemctl", "start", "stint.service")
    service.ready()
    service.stint("cancel", *tasks)
    for task in tasks:
        service.finish(task)
    done("systemctl", "stop", "stint.service")
    service.leave()


def started_by_hand(name, words):
    """A peer that is started otherwise is checked and stopped."""
    peer = Peer(name)
    log = open(f"/var/log/{name}", "w")
    process = subprocess.Popen([*words, STINT, "node", "--config", peer.config, "--bootstrap"], stdout=log, stderr=log)
    try:
        peer.ready()
        nodes = json.loads(peer.stint("-o", "json", "nodes"))
        expect(nodes[0]["problems"] == [], "what is not enforced:", nodes)
        for runtime in RUNTIMES:
            memory(peer, runtime)
            usage(peer, runtime)
        limits(peer, "process")
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(PATIENCE_S)
    peer.leave()


@check
def a_node_started_in_a_login_session_limits_and_measures():
    started_by_hand("shell", ["systemd-run", "--quiet", "--scope", "--slice=user-0.slice"])


@check
def a_node_in_a_delegated_subgroup_limits_and_measures():
    """As DelegateSubgroup= does from systemd 254 on."""
    enter = """
        own=/sys/fs/cgroup$(sed s/^0::// /proc/self/cgroup)
        mkdir $own/node && echo $$ >$own/node/cgroup.procs && exec "$@"
        """
    scope = ["systemd-run", "--quiet", "--scope", "--property=Delegate=memory pids cpu io"]
    started_by_hand("subgroup", [*scope, "/bin/sh", "-c", enter, "sh"])


def main():
    shutil.copy(f"{HERE}/stint", STINT)
    done("/bin/sh", "-c", "fallocate -l 256M /swap && chmod 600 /swap && mkswap -q /swap && swapon /swap")
    # Loopback is up already; systemd does that.
    only = settings.only.split()
    passed = failed = 0
    for one in checks:
        name = one.__name__.replace("_", " ")
        if only and not any(word in name for word in only):
            continue
        start = time.monotonic()
        try:
            one()
            passed += 1
            print(f"ok      {name} ({time.monotonic() - start:.1f} s)", flush=True)
        except Exception as error:  # whatever it is, the others are still checked
            failed += 1
            told = str(error) if isinstance(error, Wrong) else traceback.format_exc()
            print(f"FAILED  {name} ({time.monotonic() - start:.1f} s): {told}", flush=True)
            journal = ["journalctl", "--no-pager", "--lines=15", "--unit=stint.service"]
            print(subprocess.run(journal, capture_output=True, text=True, timeout=PATIENCE_S).stdout, flush=True)
    print(f"checks: {passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
