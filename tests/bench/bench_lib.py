"""What the benchmarks share: cgroups, a memory server, paired runs, the machine line."""
import atexit
import datetime
import glob
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BIN = os.environ.get("EG_BIN", os.path.join(ROOT, "build", "bin"))
MIB = 1 << 20
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


class Killed(Exception):
    """The kernel killed the run for memory."""


def is_dead(pid):
    return pid.isdigit() and not os.path.exists("/proc/" + pid)


def clear_up_after_killed():
    """A benchmark that SIGKILL ended has left its cgroups, its swap and its folder."""
    # What runs in them first: swapoff would wait for memory that the limit does not give.
    for left in glob.glob("/sys/fs/cgroup/endgame-bench-*-*") + glob.glob("/sys/fs/cgroup/*/endgame-bench-*-*"):
        if is_dead(os.path.basename(left).split("-")[2]):
            Cgroup.remove_at(left)
    for folder in glob.glob(os.path.join(tempfile.gettempdir(), "endgame-bench.*.*")):
        if not is_dead(os.path.basename(folder).split(".")[1]):
            continue
        mount = os.path.join(folder, "ramfs")
        if os.path.ismount(mount):
            loops = subprocess.run(["losetup", "-n", "-O", "NAME", "-j", os.path.join(mount, "swap")], stdout=subprocess.PIPE, text=True).stdout.split()
            for loop in loops:
                subprocess.run(["timeout", "120", "swapoff", loop], stderr=subprocess.DEVNULL)
                subprocess.run(["losetup", "-d", loop])
            subprocess.run(["umount", mount])
        if not os.path.ismount(mount):
            shutil.rmtree(folder, ignore_errors=True)


class Work:
    """A scratch folder and everything that has to be undone, in reverse order, however the benchmark ends."""

    def __init__(self):
        clear_up_after_killed()
        self.dir = tempfile.mkdtemp(prefix="endgame-bench.%d." % os.getpid())
        self.undo = [lambda: shutil.rmtree(self.dir, ignore_errors=True)]
        atexit.register(self.close)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(1))

    def later(self, function):
        self.undo.append(function)

    def close(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second one must not stop the clean-up half way
        while self.undo:
            try:
                self.undo.pop()()
            except (OSError, subprocess.SubprocessError) as error:
                print("clean-up: %s" % error, file=sys.stderr)

    def compile(self, source, *arguments):
        out = os.path.join(self.dir, os.path.splitext(os.path.basename(source))[0])
        if not os.path.exists(out):
            subprocess.run(["cc", "-std=gnu11", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-pthread", "-o", out, source,
                            *arguments], check=True)
        return out


class Cgroup:
    """A memory cgroup (v1 or v2) with a limit; swap is allowed or not."""

    def __init__(self, work, name):
        self.path, self.v1 = None, False
        for line in open("/proc/mounts"):
            _, where, kind, options = line.split()[:4]
            if kind == "cgroup" and "memory" in options.split(","):
                self.path, self.v1 = os.path.join(where, "endgame-bench-%d-%s" % (os.getpid(), name)), True
                break
            if kind == "cgroup2" and "memory" in open(where + "/cgroup.controllers").read().split():
                with open(where + "/cgroup.subtree_control", "w") as file:
                    file.write("+memory")
                self.path = os.path.join(where, "endgame-bench-%d-%s" % (os.getpid(), name))
        if not self.path:
            sys.exit("no memory cgroup controller here")
        os.mkdir(self.path)
        work.later(lambda: self.remove_at(self.path))

    def write(self, name, value, optional=False):
        try:
            with open(os.path.join(self.path, name), "w") as file:
                file.write(str(value))
        except OSError:
            if not optional:
                raise

    def limit(self, limit_bytes, swap):
        if self.v1:
            # Lowering one limit below the other is refused: open both first.
            self.write("memory.memsw.limit_in_bytes", -1, True)
            self.write("memory.limit_in_bytes", limit_bytes)
            if not swap:
                self.write("memory.memsw.limit_in_bytes", limit_bytes, True)
            self.write("memory.swappiness", 60 if swap else 0)
        else:
            self.write("memory.max", limit_bytes)
            self.write("memory.swap.max", "max" if swap else 0, True)

    def oom_kills(self):
        with open(os.path.join(self.path, "memory.oom_control" if self.v1 else "memory.events")) as file:
            return int(dict(line.split() for line in file)["oom_kill"])

    def command(self, command):
        return ["sh", "-c", 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"', "sh", self.path] + command

    def kill_rest(self):
        self.kill_at(self.path)

    @staticmethod
    def kill_at(path):
        for _ in range(50):
            with open(os.path.join(path, "cgroup.procs")) as file:
                pids = file.read().split()
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.1)

    @staticmethod
    def remove_at(path):
        Cgroup.kill_at(path)
        for _ in range(20):
            try:
                os.rmdir(path)
                return
            except OSError:
                time.sleep(0.2)


class Swap:
    """Kernel swap on a loop device over a preallocated file on a ramfs of its own. Never tmpfs: its pages would be swapped
    into themselves. The file is filled before the loop device sees it, or the kernel would need memory to swap."""

    def __init__(self, work, size_mib):
        self.mount = os.path.join(work.dir, "ramfs")
        file = os.path.join(self.mount, "swap")
        os.mkdir(self.mount)
        subprocess.run(["mount", "-t", "ramfs", "endgame-bench", self.mount], check=True)
        work.later(lambda: subprocess.run(["umount", self.mount], check=True))
        subprocess.run(["dd", "if=/dev/zero", "of=" + file, "bs=1M", "count=%d" % size_mib, "status=none"], check=True)
        os.chmod(file, 0o600)
        subprocess.run(["mkswap", file], check=True, stdout=subprocess.DEVNULL)
        loop = subprocess.run(["losetup", "-f", "--show", file], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        work.later(lambda: subprocess.run(["losetup", "-d", loop], check=True))
        subprocess.run(["swapon", loop], check=True)
        work.later(lambda: subprocess.run(["timeout", "120", "swapoff", loop], check=True))


class Daemon:
    """One of endgame's daemons, ready at self.address; it ends with the benchmark."""

    def __init__(self, work, name, *arguments):
        # It ends with the benchmark even if that is killed.
        self.process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", os.path.join(BIN, name), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        work.later(self.stop)
        line = self.process.stdout.readline()
        if not line.startswith(name + " ready "):
            sys.exit("%s did not get ready" % name)
        self.address = line.split()[2]

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Memserver(Daemon):
    """endgame-memserver outside of the cgroup."""

    def __init__(self, work, transport, capacity="4G"):
        listen = "unix:%s/memserver.sock" % work.dir if transport == "shm" else "tcp:127.0.0.1:0"
        super().__init__(work, "endgame-memserver", "--listen", listen, "--capacity", capacity)


class ComputeNode(Daemon):
    """endgame-compute on the loopback device, with as many slots as an embedded one has here."""

    def __init__(self, work):
        super().__init__(work, "endgame-compute", "--listen", "tcp:127.0.0.1:0")


def threads_command(nodes, mode, command, stats=None):
    """command with compute nodes and its threads at home, remote or auto."""
    out = [os.path.join(BIN, "endgame"), "run", "--threads", mode]
    for node in nodes:
        out += ["-c", node]
    if stats:
        out += ["--stats", stats]
    return out + ["--"] + command


def far_command(address, budget_bytes, command, stats=None, engine="auto"):
    out = [os.path.join(BIN, "endgame"), "run", "-m", str(budget_bytes), "-s", address, "--fault-engine", engine]
    if stats:
        out += ["--stats", stats]
    return out + ["--"] + command


last_window = [0, 0]  # of what was timed last: two times of time.monotonic()


def timed(command, cgroup=None, timeout_s=180, cwd=None):
    """Runs a program: (seconds, standard output). Killed if the kernel killed it, or it failed."""
    before = cgroup.oom_kills() if cgroup else 0
    start = time.monotonic()
    process = subprocess.Popen(cgroup.command(command) if cgroup else command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, cwd=cwd, start_new_session=True)
    try:
        out, err = process.communicate(timeout=timeout_s)
        end = time.monotonic()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise Killed("no end within %d s" % timeout_s)
    except BaseException:  # interrupted: it must not outlive the benchmark
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    finally:
        if cgroup:
            cgroup.kill_rest()
    last_window[:] = start, end
    if cgroup and cgroup.oom_kills() > before:
        raise Killed("killed by the kernel for memory")
    if process.returncode:
        raise Killed("status %d: %s" % (process.returncode, err.decode(errors="replace").strip()[-300:]))
    return end - start, out.decode(errors="replace")


def peak_rss_mib(command, cwd=None):
    """Peak resident size of a native run, measured in a child so that earlier children do not count."""
    code = ("import resource, subprocess, sys\n"
            "subprocess.run(sys.argv[1:], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)")
    return int(subprocess.run([PYTHON, "-c", code] + command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout)


def machine_line():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown CPU")
    load = os.getloadavg()[0]
    return "Linux %s, %s, %d cores, load before %.1f, %s" % (platform.release(), model, os.cpu_count(), load,
                                                           datetime.date.today().isoformat())


def own_runtime_dir(work):
    """What runs of endgame leave while they run is in a folder of this benchmark's."""
    os.environ["XDG_RUNTIME_DIR"] = os.path.join(work.dir, "run")
    os.mkdir(os.environ["XDG_RUNTIME_DIR"], 0o700)


def median(values):
    return statistics.median(values) if values else None


__all__ = [name for name in dir() if not name.startswith("_")]
