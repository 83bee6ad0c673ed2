# shellcheck shell=bash disable=SC2034
# Sourced by every script here: where things live, and starting and stopping processes by PID.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TESTBED_HOME=${TESTBED_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/sallyport-testbed}   # all that is built or run
TESTBED_NAME=${TESTBED_NAME:-sp}    # prefix of network namespaces, cgroups and images: two testbeds never meet
TESTBED_NET=${TESTBED_NET:-172.30}  # first two bytes of the LAN
BIN=$TESTBED_HOME/bin SHARE=$TESTBED_HOME/share IMG=$TESTBED_HOME/img/$TESTBED_NAME RUN=$TESTBED_HOME/run/$TESTBED_NAME
KUBE_VERSION=1.34.4
export TESTBED_HOME TESTBED_NAME TESTBED_NET

# testbed ARGS...: the Go side of these scripts (cmd/testbed). `go run` builds it only after a change, and is safe side by side.
testbed() { GOTOOLCHAIN=local GOWORK=off go -C "$HERE/.." run ./cmd/testbed "$@"; }
die() { echo "$(basename "$0"): $*" >&2; exit 1; }
need() { local b; for b; do [ -x "$BIN/$b" ] || die "$b is not built: run $HERE/build.sh"; done; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f s", b - a }'; }

# A PID file holds the PID and the process's start time, so that a PID used again is never taken for ours.
start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
alive() { local p t; read -r p t 2>/dev/null <"$1" && [ "$(start_time "$p")" = "$t" ]; }

# start DIR NAME CMD...: in the background, in a session of its own; DIR/log/NAME.log, DIR/pid/NAME.
# With NS set, in that network namespace. (nsenter, not `ip netns exec`: that remounts /sys, which hides the cgroups.)
start() {
  local dir=$1 name=$2; shift 2
  mkdir -p "$dir/log" "$dir/pid"
  # 9>&-: a daemon must not inherit the lock that its starter holds
  setsid ${NS:+nsenter --net="/run/netns/$NS"} "$@" >>"$dir/log/$name.log" 2>&1 </dev/null 9>&- &
  echo "$! $(start_time $!)" >"$dir/pid/$name"
}

# stop PIDFILE...: TERM, up to PATIENCE (10) seconds, KILL
stop() {
  local f p i
  for f; do alive "$f" && { read -r p _ <"$f"; kill "$p" 2>/dev/null; }; done
  for f; do
    for ((i = 0; i < ${PATIENCE:-10} * 10; i++)); do alive "$f" || break; sleep 0.1; done
    alive "$f" && { read -r p _ <"$f"; kill -9 "$p" 2>/dev/null; }
    rm -f "$f"
  done
  return 0
}

# wait_for SECONDS WHAT CMD...: until CMD succeeds
wait_for() {
  local limit=$1 what=$2 end=$((SECONDS + $1)); shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || die "$what: not within $limit s"
    sleep 0.1
  done
}
