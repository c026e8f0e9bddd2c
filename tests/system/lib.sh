# lib.sh - what every system test shares: a cgroup that the kernel itself enforces, a memory server outside of it, a
# native reference, and the checks that no test may leave out. Sourced by *.test, which call:
#
#   system_init BUDGET_MIB              cgroup of BUDGET + SLACK MiB without swap, work folder, clean-up
#   native_dies CMD...                  the witness: the kernel kills CMD in this cgroup when it runs natively
#   for_each_transport FUNCTION         FUNCTION runs once over shm and once over tcp, with a fresh memory server
#   shrunk NUMBER                       the size of something, smaller on a slow machine
#   far CMD...                          CMD under `endgame run` inside the cgroup (its exit status; stdio is CMD's)
#   far_start CMD...                    the same in the background: $FAR_PID
#   check_far [EVICTED [FETCHED]]       after far: counters, nobody was killed, the server holds nothing any more
#
# Environment: EG_BIN (folder of endgame, endgame-memserver), EG_TRANSPORTS ("shm tcp"; "rdma" where EG_RDMA_ADDR is an address
# of an RDMA device, as in scripts/rdma-vm), EG_SHRINK=N (budgets and data are an Nth, and the native witness is left out),
# EG_ENGINE (auto, handler, inline), EG_SLACK_MIB=N (where files are memory, too: more than 64), EG_MEMSERVER=ADDR (use that server, on whatever machine it is), EG_NATIVE=1 (develop a test: far is the program itself
# without any limit, check_far checks nothing), EG_KEEP=1 (keep the work folder).
# Exit status of a test: 0 passed, 1 failed, 77 skipped (the reason is printed).
set -u
LC_ALL=C
export LC_ALL
SYSTEM_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
EG_BIN=${EG_BIN:-$(cd "$SYSTEM_DIR/../.." && pwd)/build/bin}
EG_NATIVE=${EG_NATIVE:-0}
EG_TRANSPORTS=${EG_TRANSPORTS:-shm tcp}
EG_SHRINK=${EG_SHRINK:-1}
EG_MEMSERVER=${EG_MEMSERVER:-}
SLACK_MIB=${EG_SLACK_MIB:-64}
TEST_NAME=$(basename "$0" .test)
PYTHON=/usr/bin/python3
[ -x $PYTHON ] || PYTHON=$(command -v python3)

MEMSERVER_OPTIONS=
WORK= CG= CG_KIND= MEMSERVER_PID= MEMSERVER_ADDR= FAR_PID= TRANSPORT=native
OWN_PIDS=

note() { printf '%s: %s\n' "$TEST_NAME" "$*"; }
skip() { note "SKIP: $*"; exit 77; }
fail() {
    note "FAIL ($TRANSPORT): $*"
    if [ -n "$WORK" ]; then
        for file in "$WORK"/far.err "$WORK"/memserver.err; do
            [ -s "$file" ] && { echo "--- $(basename "$file")"; tail -c 2000 "$file"; echo; }
        done
        [ -s "$WORK/stats.json" ] && { echo "--- stats"; stats_line; }
        [ -n "$CG" ] && { echo "--- cgroup"; cgroup_report; }
    fi
    exit 1
}
shrunk() { echo $(($1 / EG_SHRINK)); }
need() {
    local program
    for program; do
        command -v "$program" >/dev/null || skip "$program is not installed"
    done
}

# ---- cgroup ---------------------------------------------------------------------------------------------------------
cgroup_make() {
    local v1 v2 own
    v1=$(awk '$3 == "cgroup" && $4 ~ /(^|,)memory(,|$)/ { print $2; exit }' /proc/mounts)
    v2=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
    if [ -n "$v1" ]; then
        own=$(sed -n 's/^[0-9]*:\([^:]*,\)\?memory\(,[^:]*\)\?://p' /proc/self/cgroup)
        for own in "$v1" "$v1$own"; do
            if mkdir "$own/endgame-$TEST_NAME-$$" 2>/dev/null; then
                CG=$own/endgame-$TEST_NAME-$$ CG_KIND=v1
                return 0
            fi
        done
    fi
    if [ -n "$v2" ]; then
        for own in "$v2" "$v2$(sed -n 's/^0:://p' /proc/self/cgroup)"; do
            grep -qw memory "$own/cgroup.subtree_control" 2>/dev/null ||
                echo +memory 2>/dev/null >"$own/cgroup.subtree_control" || continue
            if mkdir "$own/endgame-$TEST_NAME-$$" 2>/dev/null; then
                CG=$own/endgame-$TEST_NAME-$$ CG_KIND=v2
                return 0
            fi
        done
    fi
    return 1
}
cgroup_limit() { # MIB
    local bytes=$(($1 << 20))
    if [ $CG_KIND = v1 ]; then
        echo 0 >"$CG/memory.swappiness"
        echo $bytes >"$CG/memory.limit_in_bytes" || return 1
        # Without swap accounting the file is missing; swappiness 0 then has to do.
        [ ! -e "$CG/memory.memsw.limit_in_bytes" ] || echo $bytes >"$CG/memory.memsw.limit_in_bytes"
    else
        echo $bytes >"$CG/memory.max" || return 1
        [ ! -e "$CG/memory.swap.max" ] || echo 0 >"$CG/memory.swap.max"
    fi
}
cgroup_oom_kills() {
    if [ $CG_KIND = v1 ]; then
        awk '$1 == "oom_kill" { print $2 }' "$CG/memory.oom_control"
    else
        awk '$1 == "oom_kill" { print $2 }' "$CG/memory.events"
    fi
}
cgroup_report() {
    if [ $CG_KIND = v1 ]; then
        echo "limit $(cat "$CG/memory.limit_in_bytes") peak $(cat "$CG/memory.max_usage_in_bytes")" \
             "failcnt $(cat "$CG/memory.failcnt") oom_kills $(cgroup_oom_kills)"
        grep -E '^(cache|rss|mapped_file|shmem) ' "$CG/memory.stat"
    else
        echo "limit $(cat "$CG/memory.max") peak $(cat "$CG/memory.peak" 2>/dev/null)" $(cat "$CG/memory.events")
        grep -E '^(anon|file|shmem|kernel) ' "$CG/memory.stat"
    fi
}
cgroup_was_full() {
    if [ $CG_KIND = v1 ]; then
        [ "$(cat "$CG/memory.max_usage_in_bytes")" -ge "$(cat "$CG/memory.limit_in_bytes")" ]
    else
        [ "$(cat "$CG/memory.peak" 2>/dev/null || echo 0)" -ge "$(cat "$CG/memory.max")" ]
    fi
}
in_cgroup() { # CMD... (replaces the calling subshell)
    exec sh -c 'echo $$ >"$1/cgroup.procs" || exit 125; shift; exec "$@"' sh "$CG" "$@"
}
cgroup_kill_rest() {
    local try pid pids
    for try in $(seq 50); do
        pids=$(cat "$CG/cgroup.procs") # its size always reads as 0
        [ -n "$pids" ] || return 0
        for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
        sleep 0.1
    done
}

# ---- life of a test -------------------------------------------------------------------------------------------------
system_done() {
    local pid try
    trap - EXIT INT TERM HUP
    for pid in $OWN_PIDS; do kill -9 "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
    if [ -n "$CG" ]; then
        cgroup_kill_rest
        for try in 1 2 3 4 5 6 7 8 9 10; do rmdir "$CG" 2>/dev/null && break; sleep 0.2; done
        [ ! -d "$CG" ] || echo "$TEST_NAME: cannot remove $CG" >&2
    fi
    [ -z "$WORK" ] || [ -n "${EG_KEEP:-}" ] || rm -rf "$WORK"
}
own_pid() { OWN_PIDS="$OWN_PIDS $1"; }
disown_pid() { # reaped: its number may soon be somebody else's
    local pid rest=
    for pid in $OWN_PIDS; do [ "$pid" = "$1" ] || rest="$rest $pid"; done
    OWN_PIDS=$rest
}

system_init() { # BUDGET_MIB [SLACK_MIB]
    BUDGET_MIB=$(shrunk "$1")
    [ "$BUDGET_MIB" -ge 8 ] || BUDGET_MIB=8
    SLACK_MIB=${2:-$SLACK_MIB}
    need "$PYTHON" cc
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/endgame-$TEST_NAME.XXXXXX") || exit 1
    trap system_done EXIT
    trap 'exit 1' INT TERM HUP
    [ "$EG_NATIVE" = 1 ] && return 0
    [ -x "$EG_BIN/endgame" ] && [ -x "$EG_BIN/endgame-memserver" ] ||
        fail "endgame and endgame-memserver are not built in $EG_BIN (scripts/build; or set EG_BIN)"
    cgroup_make || skip "no memory cgroup can be made here (needs root, or a delegated cgroup with the memory controller)"
    cgroup_limit $((BUDGET_MIB + SLACK_MIB)) || skip "the memory limit of $CG cannot be set"
}

# The test programs are built here, so that a test runs from a bare checkout as well.
program() { # NAME [CC_ARGS...]: prints the binary's path
    local name=$1
    shift
    [ -x "$WORK/$name" ] ||
        cc -std=gnu11 -O2 -g -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Werror -pthread \
           -o "$WORK/$name" "$SYSTEM_DIR/$name.c" "$@" >&2 || return 1
    printf '%s\n' "$WORK/$name"
}

# ---- daemons --------------------------------------------------------------------------------------------------------
daemon_start() { # FILE CMD...: its output is in $WORK/FILE.out and .err; sets DAEMON_PID and, once it is ready, DAEMON_ADDR
    local files=$WORK/$1 try
    shift
    : >"$files.out"
    "$@" >"$files.out" 2>"$files.err" </dev/null &
    DAEMON_PID=$!
    own_pid $DAEMON_PID
    for try in $(seq 100); do
        DAEMON_ADDR=$(sed -n 's/^endgame-[a-z]* ready //p' "$files.out")
        [ -z "$DAEMON_ADDR" ] || return 0
        kill -0 $DAEMON_PID 2>/dev/null || break
        sleep 0.1
    done
    return 1
}
daemon_stop() { # PID WHAT: by SIGTERM; the status that it ends with
    local rc try
    kill -TERM "$1" 2>/dev/null
    for try in $(seq 100); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$1" 2>/dev/null && note "$2 did not end on SIGTERM within 10 s"
    wait "$1" 2>/dev/null
    rc=$?
    disown_pid "$1"
    return $rc
}

memserver_start() { # TRANSPORT CAPACITY
    local listen try
    case $1 in
        shm) listen=unix:$WORK/memserver.sock ;;
        tcp) listen=tcp:127.0.0.1:0 ;;
        rdma) listen=rdma:${EG_RDMA_ADDR:?an address of an RDMA device}:0 ;;
        *) fail "unknown transport $1" ;;
    esac
    TRANSPORT=$1
    if [ -n "$EG_MEMSERVER" ]; then
        MEMSERVER_ADDR=$EG_MEMSERVER
        for try in $(seq 60); do
            memserver_holds >/dev/null 2>&1 && return 0
            sleep 0.5
        done
        fail "no answer from $EG_MEMSERVER: $(tail -n 1 "$WORK/status.err")"
    fi
    daemon_start memserver "$EG_BIN/endgame-memserver" --listen "$listen" --capacity "$2" $MEMSERVER_OPTIONS || fail "the memory server did not get ready"
    MEMSERVER_PID=$DAEMON_PID MEMSERVER_ADDR=$DAEMON_ADDR
}
memserver_stop() { # SIGTERM must end it with status 0
    local rc
    [ -n "$MEMSERVER_PID" ] || return 0
    daemon_stop "$MEMSERVER_PID" "the memory server"
    rc=$?
    MEMSERVER_PID=
    rm -f "$WORK/memserver.sock"
    [ $rc -eq 0 ] || fail "the memory server ended with status $rc on SIGTERM"
}
memserver_holds() { # prints the bytes that the server holds
    "$EG_BIN/endgame" status "$MEMSERVER_ADDR" --json 2>>"$WORK/status.err" |
        $PYTHON -c 'import json, sys
d = json.load(sys.stdin)
d = d[0] if isinstance(d, list) else d
d = d["servers"][0] if "servers" in d else d
print(d["stored_bytes"] + d["promised_bytes"])'
}
memserver_is_empty() {
    local try held=
    for try in $(seq 50); do
        held=$(memserver_holds)
        [ "$held" = 0 ] && return 0
        sleep 0.1
    done
    fail "after the run the memory server still holds ${held:-(no answer)} bytes"
}

for_each_transport() { # FUNCTION [CAPACITY]
    if [ "$EG_NATIVE" = 1 ]; then
        "$1" || fail "$1"
        return
    fi
    local transport start
    for transport in $EG_TRANSPORTS; do
        start=$SECONDS
        memserver_start "$transport" "${2:-4G}"
        OOM_BEFORE=$(cgroup_oom_kills) # not in far, which may run in a subshell
        "$1" || fail "$1"
        memserver_stop
        note "$transport: passed in $((SECONDS - start)) s: $(stats_line)"
    done
}

# ---- the program ----------------------------------------------------------------------------------------------------
FAR_TIMEOUT_S=${FAR_TIMEOUT_S:-120}
far_command() { # fills the array FAR with the command
    if [ "$EG_NATIVE" = 1 ]; then
        FAR=("$@")
    else
        FAR=("$EG_BIN/endgame" run -m "${BUDGET_MIB}M" --fault-engine "${EG_ENGINE:-auto}" -s "$MEMSERVER_ADDR" --stats "$WORK/stats.json" -- "$@")
    fi
}
far() {
    local FAR rc
    far_command "$@"
    rm -f "$WORK/stats.json"
    if [ "$EG_NATIVE" = 1 ]; then
        timeout -k 5 "$FAR_TIMEOUT_S" "${FAR[@]}" 2> >(tee "$WORK/far.err" >&2)
        return
    fi
    (in_cgroup timeout -k 5 "$FAR_TIMEOUT_S" "${FAR[@]}") 2>"$WORK/far.err"
    rc=$?
    [ $rc -ne 124 ] && [ $rc -ne 137 ] || note "no end within $FAR_TIMEOUT_S s, or killed (status $rc)"
    return $rc
}
far_start() {
    local FAR
    far_command "$@"
    rm -f "$WORK/stats.json"
    if [ "$EG_NATIVE" = 1 ]; then
        "${FAR[@]}" </dev/null 2>"$WORK/far.err" &
    else
        (in_cgroup "${FAR[@]}") </dev/null 2>"$WORK/far.err" &
    fi
    FAR_PID=$!
    own_pid $FAR_PID
}
far_wait() { # SECONDS: exit status of the program; 124 if it did not end in time
    local rc try
    for try in $(seq $(($1 * 10))); do
        kill -0 "$FAR_PID" 2>/dev/null || break
        sleep 0.1
    done
    if kill -0 "$FAR_PID" 2>/dev/null; then return 124; fi
    wait "$FAR_PID"
    rc=$?
    disown_pid "$FAR_PID"
    FAR_PID=
    return $rc
}
native() { timeout -k 5 "$FAR_TIMEOUT_S" "$@"; }

native_dies() { # CMD...
    local before rc
    [ "$EG_NATIVE" = 1 ] || [ "$EG_SHRINK" -gt 1 ] && return 0
    before=$(cgroup_oom_kills)
    { (in_cgroup timeout -k 5 20 "$@") >/dev/null </dev/null; } 2>/dev/null # the shell's own "Killed", too
    rc=$?
    cgroup_kill_rest
    [ "$(cgroup_oom_kills)" -gt "$before" ] && return 0
    # At the limit the kernel may, instead of killing, throw the program's code out and read it in again without end.
    [ $rc -eq 124 ] && cgroup_was_full && { note "natively it came to no end at the limit"; return 0; }
    fail "the kernel did not kill the native program (status $rc) under $((BUDGET_MIB + SLACK_MIB)) MiB: the test is too small"
}

# ---- checks ---------------------------------------------------------------------------------------------------------
stat_of() { # NAME
    $PYTHON -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$WORK/stats.json" "$1"
}
stats_line() {
    [ -s "$WORK/stats.json" ] && $PYTHON -c 'import json, sys
d = json.load(open(sys.argv[1]))
print(" ".join("%s=%s" % (k, d.get(k)) for k in ("faults", "pages_fetched", "pages_prefetched", "prefetch_hits",
      "pages_evicted", "pages_dropped_clean", "pages_kept_local", "captured_bytes_peak", "resident_bytes_peak", "fault_ns_p50", "fault_ns_p99", "forks")))' "$WORK/stats.json"
}
same() { # FILE FILE
    cmp -s "$1" "$2" || {
        diff -a "$1" "$2" 2>/dev/null | head -20
        fail "$(basename "$1") and $(basename "$2") differ"
    }
}
check_not_killed() {
    local kills
    [ "$EG_NATIVE" = 1 ] && return 0
    kills=$(cgroup_oom_kills)
    [ "$kills" = "$OOM_BEFORE" ] || fail "the kernel killed $((kills - OOM_BEFORE)) process(es) for memory"
}
check_far() { # [MIN_EVICTED [MIN_FETCHED]]
    [ "$EG_NATIVE" = 1 ] && return 0
    check_not_killed
    [ -s "$WORK/stats.json" ] || fail "no statistics were written"
    $PYTHON - "$WORK/stats.json" "$(shrunk "${1:-500}")" "$(shrunk "${2:-500}")" $((BUDGET_MIB << 20)) $((SLACK_MIB << 20)) "$TRANSPORT" <<'PY' ||
import json, sys
d = json.load(open(sys.argv[1]))
evicted, fetched, budget, slack, transport = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
bad = []
for key in ("captured_bytes_peak", "resident_bytes_peak", "budget_bytes", "faults", "pages_fetched", "pages_prefetched",
            "prefetch_hits", "pages_evicted", "pages_dropped_clean", "fault_ns_p50", "fault_ns_p99", "transport"):
    if key not in d:
        bad.append("%s is missing" % key)
if not bad:
    if d["pages_evicted"] < evicted:
        bad.append("pages_evicted is %d, wanted at least %d" % (d["pages_evicted"], evicted))
    if d["pages_fetched"] < fetched:
        bad.append("pages_fetched is %d, wanted at least %d" % (d["pages_fetched"], fetched))
    if d["budget_bytes"] != budget:
        bad.append("budget_bytes is %d, wanted %d" % (d["budget_bytes"], budget))
    if d["resident_bytes_peak"] > budget + slack:
        bad.append("resident_bytes_peak is %d, over budget and slack" % d["resident_bytes_peak"])
    if d["transport"] != transport:
        bad.append("transport is %s, wanted %s" % (d["transport"], transport))
for line in bad:
    print(line)
sys.exit(1 if bad else 0)
PY
        fail "statistics"
    memserver_is_empty
}
