#!/usr/bin/env bash
# Says what sessions leave behind in a target's VM: many `status`, then pushes and rollbacks in turn, against one node.
#
#   scripts/soak.sh [STATUSES [ROUNDS [OTP]]]    1000, 200 and 25; a round is a push of new code and a rollback
#
# Prints what the VM and the destination hold before, after the first and after the second part, and how long a command
# took at the beginning and at the end of each part. The node is one of that OTP release (scripts/otp-run.sh), in a
# temporary directory (TMPDIR) and on loopback. RELSYNC names the binary (target/release/relsync).
#
# Exit codes: 0 nothing grew beyond its bound, 1 something did, or a command failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

relsync=$(realpath "${RELSYNC:-target/release/relsync}")
statuses=${1:-1000} rounds=${2:-200} otp=${3:-25}
# So often is everything done before counting starts: by then the generations that are kept have been reached.
warm_up=12
work=$(mktemp -d "${TMPDIR:-/tmp}/soak-of-relsync.XXXXXX")
node="soak_$$@127.0.0.1"
export RELSYNC_COOKIE="soak$$" RELSYNC_STORE=$work/store HOME=$work
pids=()

finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT

die() { echo "soak: $*" >&2; exit 1; }
on_node() { "$relsync" "$1" -d "$node" -p "$work/device" "${@:2}" >"$work/out" 2>&1 || { cat "$work/out" >&2; die "$1 failed"; }; }

# One beam for each push, compiled at once.
make_release() {
  mkdir -p "$work/release/lib/soak-1.0/ebin" "$work/beams"
  echo '{application, soak, [{vsn, "1.0"}, {modules, [soak]}, {applications, [kernel, stdlib]}]}.' \
    >"$work/release/lib/soak-1.0/ebin/soak.app"
  scripts/otp-run.sh "$otp" erl -noinput -boot no_dot_erlang -eval '
    [begin
       {ok, soak, Beam} = compile:forms([{attribute, 1, module, soak}, {attribute, 1, export, [{f, 0}]},
         {function, 1, f, 0, [{clause, 1, [], [], [{integer, 1, N}]}]}]),
       ok = file:write_file(filename:join(hd(init:get_plain_arguments()), integer_to_list(N)), Beam)
     end || N <- lists:seq(0, list_to_integer(lists:last(init:get_plain_arguments())))], halt().' \
    -extra "$work/beams" $((warm_up + rounds)) || die "the modules do not compile"
  cp "$work/beams/0" "$work/release/lib/soak-1.0/ebin/soak.beam"
  cp -a "$work/release" "$work/device"
}

# The node answers each line of its standard input with what it holds. Nobody else connects to it than relsync.
start_node() {
  mkfifo "$work/ask"
  exec 3<>"$work/ask"
  scripts/otp-run.sh "$otp" erl -noshell -name "$node" -setcookie "$RELSYNC_COOKIE" -kernel inet_dist_use_interface '{127,0,0,1}' \
    -pa "$work/device/lib/soak-1.0/ebin" -eval '
      Count = fun(Loop) ->
        io:get_line(""),
        soak:f(),
        [garbage_collect(P) || P <- processes()],
        {ok, Status} = file:read_file("/proc/self/status"),
        {match, [Rss]} = re:run(Status, "VmRSS:\\s+(\\d+)", [{capture, all_but_first, list}]),
        {ok, Open} = file:list_dir("/proc/self/fd"),
        io:format("counted ~s ~b ~b ~b ~b ~b ~b ~b ~b~n", [Rss, erlang:memory(code) div 1024, erlang:memory(ets) div 1024,
          erlang:system_info(atom_count), length(code:all_loaded()), length(processes()), length(erlang:ports()),
          length(ets:all()), length(Open)]),
        Loop(Loop)
      end,
      spawn(fun() -> Count(Count) end).' <"$work/ask" >"$work/answers" 2>&1 &
  pids+=($!)
  for _ in $(seq 200); do
    "$relsync" doctor -d "$node" -p "$work/device" >/dev/null 2>&1 && return
    sleep 0.1
  done
  die "the node does not start"
}

# The numbers of the table, in its order.
count() {
  local before
  # A session's last process may end after the command.
  sleep 1
  before=$(grep -c '^counted' "$work/answers" || true)
  echo >&3
  for _ in $(seq 600); do
    [ "$(grep -c '^counted' "$work/answers" || true)" -gt "$before" ] && break
    sleep 0.1
  done
  printf '%s %s %s\n' "$(grep '^counted' "$work/answers" | tail -n 1 | cut -d' ' -f2-)" \
    "$(find "$work/device" | wc -l)" "$(find "$work/device" -printf '%i\n' | sort -u | wc -l)"
}

# The milliseconds that a command takes, the mean of ten.
ten_ms() {
  local begun=${EPOCHREALTIME/./}
  for _ in $(seq 10); do "$@"; done
  echo $(((${EPOCHREALTIME/./} - begun) / 10000))
}

pushed=0
round() {
  pushed=$((pushed + 1))
  cp "$work/beams/$pushed" "$work/release/lib/soak-1.0/ebin/soak.beam"
  on_node push -l "$work/release"
  on_node rollback
}

make_release
start_node
on_node push -l "$work/release"
# Counting once makes atoms and tables of its own.
count >/dev/null
for _ in $(seq "$warm_up"); do on_node status; round; done
read -ra before < <(count)
first_ms=$(ten_ms on_node status)
for _ in $(seq "$statuses"); do on_node status; done
read -ra between < <(count)
second_ms=$(ten_ms on_node status)
for _ in $(seq "$rounds"); do round; done
read -ra after < <(count)
third_ms=$(ten_ms on_node status)

# What may grow: memory a little, as the VM's allocators see fit; nothing that is counted.
failed=0
row() {
  local name=$1 column=$2 percent=$3 verdict=ok b m a
  b=${before[$column]} m=${between[$column]} a=${after[$column]}
  if [ $((m * 100)) -gt $((b * (100 + percent))) ] || [ $((a * 100)) -gt $((b * (100 + percent))) ]; then
    verdict="GREW by more than $percent %"
    failed=1
  fi
  printf '%-18s %10d %10d %10d   %s  %s\n' "$name" "$b" "$m" "$a" "$(awk "BEGIN { printf \"%.3f\", $a / $b }")" "$verdict"
}

printf '%-18s %10s %10s %10s   %s\n' "OTP $otp" before "$statuses status" "$rounds rounds" ratio
row 'RSS, kB' 0 10
row 'code, kB' 1 1
row 'ETS, kB' 2 1
row atoms 3 0
row modules 4 0
row processes 5 0
row ports 6 0
row 'ETS tables' 7 0
row 'open files' 8 0
row files 9 0
row inodes 10 0
# Another load of the machine is no fault.
printf '%-18s %10d %10d %10d\n' 'ms, a status' "$first_ms" "$second_ms" "$third_ms"
exit "$failed"
