# lib.sh - what the tests of remote threads share, beyond tests/system/lib.sh (note, skip, fail, need, same, stat_of, own_pid,
# daemon_start, daemon_stop): compute nodes, a program run natively and with its threads on the nodes, and the checks that no test may
# leave out. Sourced by *.test, which call:
#
#   threads_init                        work folder, clean-up
#   torture NAME                        builds NAME.c (with TORTURE_FLAGS), prints the program's path
#   for_each_nodes FUNCTION             FUNCTION runs once for each kind of node of EG_NODES, with the nodes there
#   native CMD...                       CMD as it is, with a time limit; status and output are CMD's
#   remote CMD...                       CMD with its threads on the nodes: $WORK/remote.err has its standard error, $WORK/stats.json its
#                                       statistics; status and output are CMD's
#   went_remote [N]                     after remote: at least N threads (1) ran remotely, and nothing is left of the run
#   same_as_native N CMD...             CMD both ways, input from $INPUT: same output byte for byte, status 0, N threads remote
#   torture_test NAME N [ARGUMENT...]   the same with a torture program, on all nodes; if it fails, says which sub-tests do
#
# Environment: EG_BIN (folder of endgame, endgame-compute), EG_NODES ("embedded:2 tcp": endgame's own, two daemons on the loopback
# device; "other_boot": such as were booted by themselves, needs root; "rdma" where EG_RDMA_ADDR is an address of an RDMA device), EG_COMPUTE="ADDR ..." (these nodes instead, on whatever machines they are),
# EG_FAR=SIZE (far memory, too: that much stays local), EG_FAR_SERVER=ADDR (there, instead of an embedded server), EG_RUN_TIMEOUT=SECONDS (a run's time limit, instead of 60), EG_NATIVE=1 (develop a
# test: remote is native, nothing is checked of it), EG_THREADS=auto (that instead of --threads remote), EG_KEEP=1 (keep the work folder), EG_SEED.
# Exit status of a test: 0 passed, 1 failed, 77 skipped (the reason is printed).
THREADS_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$THREADS_DIR/../system/lib.sh"
EG_NODES=${EG_NODES:-embedded:2 tcp}
[ -z "${EG_COMPUTE:-}" ] || EG_NODES=given
RUN_TIMEOUT_S=${EG_RUN_TIMEOUT:-60}
EG_SEED=${EG_SEED:-1}

INPUT=/dev/null
RUN_ON=() # a command in front of `endgame run`: where it runs
NODES=() # the arguments of `endgame run` for the nodes
NODE_PIDS=

threads_init() {
    need "$PYTHON" cc
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/endgame-$TEST_NAME.XXXXXX") || exit 1
    trap threads_done EXIT
    trap 'exit 1' INT TERM HUP
    mkdir -m 700 "$WORK/run"
    [ "$EG_NATIVE" = 1 ] && return 0
    [ -x "$EG_BIN/endgame" ] && [ -x "$EG_BIN/endgame-compute" ] ||
        fail "endgame and endgame-compute are not built in $EG_BIN (scripts/build; or set EG_BIN)"
}
threads_done() {
    local pid
    trap - EXIT INT TERM HUP
    for pid in $(processes_of run) $(processes_of node1) $(processes_of node2) $(processes_of node3); do kill -9 "$pid" 2>/dev/null; done
    system_done
}

# Everything that a run starts, or a node, has this environment.
processes_of() { # run, node1...
    local _ pid
    env -u XDG_RUNTIME_DIR grep -lzFx "XDG_RUNTIME_DIR=$WORK/$1" /proc/[0-9]*/environ 2>/dev/null |
        while IFS=/ read -r _ _ pid _; do echo "$pid"; done
    return 0
}
nothing_left() { # [run, node1...]
    local try left=
    for try in $(seq 50); do
        left=$(processes_of "${1:-run}")
        [ -n "$left" ] || return 0
        sleep 0.1
    done
    for left in $left; do ps -o pid,ppid,stat,args -p "$left"; done
    fail "processes of ${1:-run} are left 5 s after its end"
}

# What each of the run's threads waits for, shortly before its time is up: a hang that is seen once must say where.
watch() {
    local pid task second
    for second in $(seq $((RUN_TIMEOUT_S - 2))); do sleep 1; done
    for pid in $(processes_of run); do
        for task in "/proc/$pid/task"/*; do
            echo "${task#/proc/} $(cat "$task/comm") $(cat "$task/wchan") $(cat "$task/syscall")"
        done
    done
    env XDG_RUNTIME_DIR="$WORK/run" "$EG_BIN/endgame" ps
} >"$WORK/watched" 2>&1

# ---- programs ---------------------------------------------------------------------------------------------------------
torture() { # NAME: prints the program's path
    local file libraries=
    for file in "$1" $([ "$1" != torture_tls ] || echo torture_plugin); do
        [ ! -x "$WORK/$file" ] || continue
        case $file in
            torture_plugin) libraries='-shared -fPIC' ;;
            torture_openmp) libraries=-fopenmp ;;
            *) libraries=-lm ;;
        esac
        cc -std=gnu11 -O2 -g -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Werror -D_GNU_SOURCE -pthread \
           ${TORTURE_FLAGS:-} -o "$WORK/$file" "$THREADS_DIR/$file.c" $libraries >&2 || return 1
        [ $file != torture_plugin ] || mv "$WORK/$file" "$WORK/$file.so"
    done
    printf '%s\n' "$WORK/$1"
}

# ---- nodes -----------------------------------------------------------------------------------------------------------
node_start() { # NUMBER ADDR [COMMAND_PREFIX...]: a daemon; sets NODE_ADDR
    local n=$1 listen=$2
    shift 2
    mkdir -p "$WORK/node$n"
    daemon_start "node$n" "$@" env XDG_RUNTIME_DIR="$WORK/node$n" "$EG_BIN/endgame-compute" --listen "$listen" --slots 2 --memory "${EG_NODE_MEMORY:-1G}" ||
        fail "compute node $n did not get ready: $(cat "$WORK/node$n.err")"
    NODE_ADDR=$DAEMON_ADDR NODE_PIDS="$NODE_PIDS $DAEMON_PID"
}
nodes_start() { # KIND
    local n listen prefix=()
    TRANSPORT=$1 NODES=() NODE_PIDS=
    case $1 in
        embedded*) NODES=(-c "$1"); return 0 ;;
        given) for n in $EG_COMPUTE; do NODES+=(-c "$n"); done; return 0 ;;
        tcp) listen=tcp:127.0.0.1:0 ;;
        other_boot) # its boot_id is another
            [ "$(id -u)" = 0 ] || skip "another boot_id needs root"
            listen=tcp:127.0.0.1:0
            echo 00000000-0000-4000-8000-000000000000 >"$WORK/boot_id"
            prefix=(unshare -m sh -c "mount --bind '$WORK/boot_id' /proc/sys/kernel/random/boot_id && exec \"\$@\"" sh)
            ;;
        rdma) listen=rdma:${EG_RDMA_ADDR:?an address of an RDMA device}:0 ;;
        *) fail "unknown kind of node $1" ;;
    esac
    for n in 1 2; do
        node_start $n "$listen" "${prefix[@]}"
        NODES+=(-c "$NODE_ADDR")
    done
}
nodes_stop() { # SIGTERM must end each with status 0
    local pid try
    for pid in $NODE_PIDS; do
        daemon_stop "$pid" "a compute node" || fail "a compute node ended with status $? on SIGTERM: $(tail -n 3 "$WORK"/node*.err)"
    done
    for try in 1 2 3; do nothing_left node$try; done
    NODE_PIDS=
}
for_each_nodes() { # FUNCTION
    local kind start
    if [ "$EG_NATIVE" = 1 ]; then
        "$1" || fail "$1"
        return
    fi
    for kind in $EG_NODES; do
        start=$SECONDS
        nodes_start "$kind"
        "$1" || fail "$1"
        nodes_stop
        note "$kind: passed in $((SECONDS - start)) s: $(threads_line)"
    done
}

# ---- runs ------------------------------------------------------------------------------------------------------------
limited() { timeout -k 5 "$RUN_TIMEOUT_S" "$@"; }
native() { limited "$@"; }
remote_command() { # fills the array REMOTE
    REMOTE=("$@")
    [ "$EG_NATIVE" = 1 ] ||
        REMOTE=("${RUN_ON[@]}" env XDG_RUNTIME_DIR="$WORK/run" "$EG_BIN/endgame" run "${NODES[@]}" --threads "${EG_THREADS:-remote}" ${EG_FAR:+-m "$EG_FAR"}
            ${EG_FAR_SERVER:+-s "$EG_FAR_SERVER"}
            --stats "$WORK/stats.json" -- "$@")
}
remote() { # with input from $INPUT
    local REMOTE rc watcher start=$SECONDS
    remote_command "$@"
    rm -f "$WORK/stats.json"
    watch &
    watcher=$!
    limited "${REMOTE[@]}" <"$INPUT" 2>"$WORK/remote.err"
    rc=$?
    kill $watcher 2>/dev/null
    wait $watcher 2>/dev/null
    [ $((SECONDS - start)) -lt "$RUN_TIMEOUT_S" ] || { note "no end within $RUN_TIMEOUT_S s: $*; task, name, where, system call:"; cut -c 1-200 "$WORK/watched"; } >&2
    return $rc
}
remote_start() { # the same in the background: $REMOTE_PID
    local REMOTE
    remote_command "$@"
    rm -f "$WORK/stats.json"
    "${REMOTE[@]}" <"$INPUT" 2>"$WORK/remote.err" &
    REMOTE_PID=$!
    own_pid $REMOTE_PID
}
ended() { # PID SECONDS: waits; the status of a process of this script, 124 if it does not end in time
    local rc try
    for try in $(seq $(($2 * 20))); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.05
    done
    ! kill -0 "$1" 2>/dev/null || return 124
    wait "$1" 2>/dev/null
    rc=$?
    disown_pid "$1"
    return $rc
}

# ---- checks ----------------------------------------------------------------------------------------------------------
threads_line() {
    [ -s "$WORK/stats.json" ] && "$PYTHON" -c 'import json, sys
d = json.load(open(sys.argv[1]))
print(" ".join("%s=%s" % (k, d[k]) for k in ("threads_remote", "migrations", "syscalls_forwarded", "futex_waits_remote", "pages_coherent_fetched",
      "invalidations", "thread_start_ns_p50", "coherent_fault_ns_p50") if k in d))' "$WORK/stats.json"
}
went_remote() { # [N]
    local n
    [ "$EG_NATIVE" = 1 ] && return 0
    [ -s "$WORK/stats.json" ] || fail "no statistics were written"
    n=$(stat_of threads_remote) || fail "no threads_remote in the statistics"
    [ "$n" -ge "${1:-1}" ] || fail "threads_remote is $n, wanted at least ${1:-1}"
    nothing_left
}
# The run ended with one line of endgame's, PATTERN in it. That threads stay at home or start again may have been said before.
refused_in_a_line() { # [PATTERN]
    [ "$(grep -Evc '^$|^endgame: threads stay here|start again elsewhere' "$WORK/remote.err")" -eq 1 ] && tail -n 1 "$WORK/remote.err" | grep -q "^endgame: ${1:-}"
}
show_remote_error() { [ ! -s "$WORK/remote.err" ] || { echo "--- standard error"; tail -c 1500 "$WORK/remote.err"; }; }
same_as_native() { # N CMD...
    local n=$1 rc
    shift
    native "$@" <"$INPUT" >"$WORK/native.out" 2>"$WORK/native.err" || fail "natively, $1 ended with status $?: $(tail -n 3 "$WORK/native.err")"
    remote "$@" >"$WORK/remote.out"
    rc=$?
    [ $rc -eq 0 ] || { show_remote_error; fail "$1 ended with status $rc"; }
    same "$WORK/native.out" "$WORK/remote.out"
    went_remote "$n"
}

torture_once() { # NAME N ARGUMENT...
    local program=$WORK/$1 n=$2 name rc args
    shift 2
    args=(--seed "$EG_SEED" "$@")
    native "$program" "${args[@]}" >"$WORK/native.out" || fail "natively, ${program##*/} $* ended with status $?"
    remote "$program" --verbose "${args[@]}" >"$WORK/remote.out"
    rc=$?
    if [ $rc -eq 0 ]; then
        same "$WORK/native.out" "$WORK/remote.out"
        went_remote "$n"
        return 0
    fi
    note "${program##*/} $*: status $rc after: $(tail -n 2 "$WORK/remote.err" | tr '\n' ' ')"
    # Each alone, so that one failure does not hide others; with little patience, since this run has failed anyway.
    local RUN_TIMEOUT_S=15
    for name in $("$program" --list | awk '{ print $1 }'); do
        ! native "$program" "${args[@]}" "$name" >"$WORK/native.out" 2>/dev/null && continue # not one of the names that were given
        remote "$program" "${args[@]}" "$name" >"$WORK/remote.out"
        rc=$?
        if [ $rc -ne 0 ]; then
            note "  $name: status $rc: $(grep -v '^$' "$WORK/remote.err" | tail -n 1 | cut -c 1-300)"
        elif ! cmp -s "$WORK/native.out" "$WORK/remote.out"; then
            note "  $name: other output: $(tail -n 1 "$WORK/remote.out")"
        fi
        for pid in $(processes_of run); do kill -9 "$pid" 2>/dev/null; done
    done
    fail "${program##*/} $*: status $rc"
}
torture_moves() { # torture_once's arguments: some thread goes from one node to another, or home
    local out moved
    torture_once "$@"
    [ "$EG_NATIVE" = 1 ] && return 0
    out=$(stat_of threads_remote) moved=$(stat_of migrations)
    [ "$moved" -gt "$out" ] || fail "$*: none of $out threads was moved ($moved migrations)"
}
torture_test() { # NAME N [ARGUMENT...]
    torture "$1" >"$WORK/path" || fail "cannot build $1"
    TORTURE_ARGS=("$@")
    torture_run() { torture_once "${TORTURE_ARGS[@]}"; }
    for_each_nodes torture_run
}
