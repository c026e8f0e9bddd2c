"""Where the processors' time goes in one run: samples of all processors (perf), each put to the step that its call chain shows.

The steps of a run add up to its time times the number of processors, as every sample belongs to exactly one of them."""
import collections
import os
import re
import shutil
import signal
import subprocess
import time

HZ = 997
SERVER = "endgame-memserv"  # as the kernel cuts its name
OURS = re.compile(r"/libendgame[^/]*\.so")

# (step, what the kernel's part of the chain holds), of calls that the runtime makes in the program's processes; the first that fits.
RUNTIME_CALLS = [
    ("pages into the program (UFFDIO_COPY)", r"mfill_|userfaultfd_copy"),
    ("pages out of it (move, protect, discard)", r"userfaultfd_ioctl|madvise|mprotect|mmap|munmap|mremap"),
    ("which pages were written (PAGEMAP_SCAN)", r"pagemap"),
    ("sending", r"sys_sendmsg|sys_sendto"),
    ("receiving, looking for what came", r"sys_recvmsg|sys_recvfrom|getsockopt"),
    ("copies and checksums", r"process_vm_rw|exc_page_fault"),
    ("waiting, waking, giving way", r"futex|sys_ppoll|sched_yield|sys_read|sys_write|epoll"),
]
STEPS = [
    "the program itself", "its system calls", "first touches of fresh memory", "swap: faults", "swap: making room",
    "a fault's exception, signal and return", *[step for step, _ in RUNTIME_CALLS], "the runtime's own code",
    "server: sending", "server: receiving, looking for requests", "server: its own code", "the kernel's threads", "others", "idle",
]


def missing():
    """Why nothing can be recorded here; None."""
    if not shutil.which("perf"):
        return "perf is not installed: apt-get install linux-perf"
    if subprocess.run(["perf", "record", "-a", "-e", "cpu-clock", "-o", os.devnull, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        return "perf may not record all processors here"
    return None


class Recording:
    """All processors, from when it is made until stop()."""

    def __init__(self, file):
        self.file = file
        self.before = {int(pid) for pid in os.listdir("/proc") if pid.isdigit()}
        self.process = subprocess.Popen(["perf", "record", "-a", "-g", "-e", "cpu-clock", "-F", str(HZ), "-k", "mono", "-o", file], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not os.path.exists(file) and self.process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)  # it has its files before it records

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def steps(self, window, others):
        """{step: seconds of processor} within window, two times of time.monotonic(). others: names and numbers of processes that are not the
        program; those that were there before are not, either."""
        others = self.before | set(others)
        kernel_threads = kernel_thread_names()
        counted = collections.Counter()
        perf = subprocess.Popen(["perf", "script", "-i", self.file, "--ns", "-F", "comm,pid,time,ip,sym,dso"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                errors="replace")
        for comm, pid, when, chain in samples(perf.stdout):
            if window[0] <= when <= window[1]:
                counted[step_of(comm, chain, kernel_threads, comm in others or pid in others)] += 1
        perf.wait()
        each = (window[1] - window[0]) * os.cpu_count() / max(1, sum(counted.values()))
        return {step: n * each for step, n in counted.items()}


def kernel_thread_names():
    names = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % pid) as file:
                name, rest = file.read().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        if rest.split()[1] == "2" or pid == "2":
            names.add(name.split("/")[0])
    return names


HEAD = re.compile(r"^(.*\S)\s+(\d+)\s+(\d+\.\d+):\s*$")
FRAME = re.compile(r"^\s+[0-9a-f]+ (.*) \((.*)\)$")


def samples(lines):
    """(name, process, time, [(symbol, object), ...] from the innermost out)"""
    sample = None
    for line in lines:
        head, frame = HEAD.match(line), FRAME.match(line)
        if head:
            if sample:
                yield sample
            sample = head.group(1), int(head.group(2)), float(head.group(3)), []
        elif frame and sample:
            sample[3].append(frame.groups())
    if sample:
        yield sample


def step_of(comm, chain, kernel_threads, is_other):
    user = next((frame for frame in chain if not frame[1].startswith("[kernel")), None)
    kernel = " ".join(symbol for symbol, dso in chain if dso.startswith("[kernel"))
    if comm == "swapper":
        return "idle"
    if comm.split("/")[0] in kernel_threads:
        return "the kernel's threads"
    if comm == SERVER:
        return server_step(kernel)
    if is_other or comm.startswith("perf"):
        return "others"
    ours = user is not None and OURS.search(user[1])
    if not kernel:
        if not ours:
            return "the program itself"
        return "copies and checksums" if re.search(r"page_sum|memcpy|copy", user[0]) else "the runtime's own code"
    fault = "exc_page_fault" in kernel
    if re.search(r"do_swap_page|swapin|swap_read", kernel) and fault:
        return "swap: faults"
    if re.search(r"try_to_free_mem_cgroup|shrink_", kernel):
        return "swap: making room"
    if "rt_sigreturn" in kernel or (fault and re.search(r"force_sig|arch_do_signal|handle_userfault", kernel)):
        return "a fault's exception, signal and return"
    if ours:
        return next((step for step, what in RUNTIME_CALLS if re.search(what, kernel)), "the runtime's own code")
    if fault:
        return "first touches of fresh memory" if re.search(r"do_anonymous_page|huge_pmd|do_wp_page|clear_|alloc_", kernel) else "a fault's exception, signal and return"
    return "its system calls"


def server_step(kernel):
    if re.search(r"sys_sendmsg|sys_sendto|sys_write", kernel):
        return "server: sending"
    return "server: receiving, looking for requests" if kernel else "server: its own code"
