# cli_lib.sh - shared by cli_*.test: a private place for all that a run makes, and the check that nothing of it is left.
set -u
LC_ALL=C
export LC_ALL
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
EG_BIN=${EG_BIN:-$(cd "$here/../.." && pwd)/build/bin}
endgame=$EG_BIN/endgame
[ -x "$endgame" ] || { echo "no $endgame: run scripts/build"; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/endgame-cli.XXXXXX") || exit 1
mkdir -m 700 "$work/run"
export XDG_RUNTIME_DIR=$work/run
own_pids=
cleanup() {
    trap - EXIT INT TERM HUP
    local pid
    for pid in $own_pids $(own_processes); do kill -9 "$pid" 2>/dev/null; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

failures=0
failed() {
    echo "FAIL: $*"
    failures=$((failures + 1))
}
finish() {
    [ $failures -eq 0 ] || { echo "$failures checks failed"; exit 1; }
    exit 0
}

# All that a run starts, the keeper and the embedded server too, has this environment; this script itself has not: it set the
# variable only after it was started.
own_processes() {
    local _ pid
    env -u XDG_RUNTIME_DIR grep -lzFx "XDG_RUNTIME_DIR=$work/run" /proc/[0-9]*/environ 2>/dev/null |
        while IFS=/ read -r _ _ pid _; do echo "$pid"; done
    return 0
}
nothing_left() { # WHAT [TRIES]: neither files nor processes of a run; a run that has ended has cleared up already
    local try left
    for try in $(seq "${2:-1}"); do
        left=$(ls -A "$work/run")
        [ -z "$left" ] && left=$(own_processes) && [ -z "$left" ] && return 0
        [ "${2:-1}" = 1 ] || sleep 0.1
    done
    failed "$1: left over: $left"
    for left in $(own_processes); do ps -o pid,ppid,stat,args -p "$left"; done
}

# The command must end with STATUS, say exactly one line on standard error that matches REGEX, nothing on standard output, and leave
# nothing.
refused() { # STATUS REGEX ARGUMENT...
    local want=$1 regex=$2 status
    shift 2
    timeout -k 2 20 "$endgame" "$@" >"$work/out" 2>"$work/err" </dev/null
    status=$?
    [ $status -eq "$want" ] || failed "endgame $*: status $status, not $want"
    [ ! -s "$work/out" ] || failed "endgame $*: wrote to standard output: $(head -c 200 "$work/out")"
    [ "$(wc -l <"$work/err")" -eq 1 ] || failed "endgame $*: not one line: $(cat "$work/err")"
    grep -Eq "^endgame: .*($regex)" "$work/err" || failed "endgame $*: '$(cat "$work/err")' does not match '$regex'"
    nothing_left "endgame $*"
}
