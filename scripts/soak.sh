#!/usr/bin/env bash
# Says what sessions leave behind in a target's VM: many `status`, then pushes and rollbacks in turn, against one node.
#
#   scripts/soak.sh [STATUSES [ROUNDS [OTP]]]    1000, 200 and 25; a round is a push of new code and a rollback
#
# Prints what the VM and the destination hold before, after the first and after the second part, and how long a command
# took at the beginning and at the end of each part. The node is one of that OTP release (scripts/otp-run.sh), in a
# temporary directory (TMPDIR) and on loopback. RELSYNC names the binary (target/release/relsync).
#
# A VM of OTP 29 never forgets a fun of code that it has purged. So one of the pushed modules makes a fun, and what the
# same loads cost in a VM without relsync is measured first; code may grow by that much.
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

# Two beams for each push, compiled at once: `soak` makes a fun, and `bare` does not.
make_release() {
  mkdir -p "$work/release/lib/soak-1.0/ebin" "$work/beams"
  echo '{application, soak, [{vsn, "1.0"}, {modules, [bare, soak]}, {applications, [kernel, stdlib]}]}.' \
    >"$work/release/lib/soak-1.0/ebin/soak.app"
  scripts/otp-run.sh "$otp" erl -noinput -boot no_dot_erlang -eval '
    [Beams, Last] = init:get_plain_arguments(),
    [begin
       {ok, Tokens, _} = erl_scan:string(lists:flatten(io_lib:format("f() -> ~s. ", [Body]))),
       {ok, F} = erl_parse:parse_form(Tokens),
       {ok, M, Beam} = compile:forms([{attribute, 1, module, M}, {attribute, 1, export, [{f, 0}]}, F]),
       ok = file:write_file(filename:join(Beams, [atom_to_list(M), integer_to_list(N)]), Beam)
     end || N <- lists:seq(0, list_to_integer(Last)),
            {M, Body} <- [{soak, io_lib:format("fun(X) -> {~b, X} end", [N])}, {bare, integer_to_list(N)}]], halt().' \
    -extra "$work/beams" $((warm_up + rounds)) || die "the modules do not compile"
  take_beams 0
  cp -a "$work/release" "$work/device"
}

take_beams() {
  local module
  for module in soak bare; do cp "$work/beams/$module$1" "$work/release/lib/soak-1.0/ebin/$module.beam"; done
}

# The kB of code that the rounds cost in a VM without relsync: they load what the pushes and the rollbacks load.
plain_growth() {
  scripts/otp-run.sh "$otp" erl -noinput -boot no_dot_erlang -eval '
    [Beams, WarmUp, Rounds] = init:get_plain_arguments(),
    Load = fun(N) ->
      [begin
         {ok, Beam} = file:read_file(filename:join(Beams, [atom_to_list(M), integer_to_list(N)])),
         code:purge(M),
         {module, M} = code:load_binary(M, "soak.beam", Beam)
       end || M <- [soak, bare]]
    end,
    Code = fun() ->
      [garbage_collect(P) || P <- processes()],
      timer:sleep(1000),
      erlang:memory(code)
    end,
    Last = list_to_integer(WarmUp) + list_to_integer(Rounds),
    [begin Load(N), Load(0) end || N <- lists:seq(1, list_to_integer(WarmUp))],
    Before = Code(),
    [begin Load(N), Load(0) end || N <- lists:seq(list_to_integer(WarmUp) + 1, Last)],
    io:format("~b~n", [(Code() - Before + 1023) div 1024]), halt().' -extra "$work/beams" "$warm_up" "$rounds"
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
        bare:f(),
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
  printf '%s %s %s %s %s\n' "$(grep '^counted' "$work/answers" | tail -n 1 | cut -d' ' -f2-)" \
    "$(find "$work/device" | wc -l)" "$(find "$work/device" -printf '%i\n' | sort -u | wc -l)" \
    "$(du -sk "$work/store" | cut -f1)" "$(find "$work/store" -type f | wc -l)"
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
  take_beams "$pushed"
  on_node push -l "$work/release"
  on_node rollback
}

make_release
plain_kb=$(plain_growth)
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

# What may grow: memory a little, as the VM's allocators see fit; nothing that is counted. A table of the VM's that
# has doubled costs less than this many kB; one fun kept in each round costs more.
slack_kb=32
failed=0
row() {
  local name=$1 column=$2 bound=$3 verdict=ok b m a most
  b=${before[$column]} m=${between[$column]} a=${after[$column]}
  case $bound in
    *%) most=$((b * (100 + ${bound%\%}) / 100)) ;;
    *) most=$((b + bound)) ;;
  esac
  if [ "$m" -gt "$most" ] || [ "$a" -gt "$most" ]; then
    verdict="GREW to more than $most"
    failed=1
  fi
  printf '%-18s %10d %10d %10d   %s  %s\n' "$name" "$b" "$m" "$a" "$(awk "BEGIN { printf \"%.3f\", $a / $b }")" "$verdict"
}

printf '%-18s %10s %10s %10s   %s\n' "OTP $otp" before "$statuses status" "$rounds rounds" ratio
row 'RSS, kB' 0 10%
row 'code, kB' 1 $((plain_kb + slack_kb))
row 'ETS, kB' 2 1%
row atoms 3 0
row modules 4 0
row processes 5 0
row ports 6 0
row 'ETS tables' 7 0
row 'open files' 8 0
row files 9 0
row inodes 10 0
# The host's store keeps every release. Another load of the machine is no fault.
printf '%-18s %10d %10d %10d\n' 'store, kB' "${before[11]}" "${between[11]}" "${after[11]}"
printf '%-18s %10d %10d %10d\n' 'store files' "${before[12]}" "${between[12]}" "${after[12]}"
printf '%-18s %10d %10d %10d\n' 'ms, a status' "$first_ms" "$second_ms" "$third_ms"
echo "the same loads in a VM without relsync: $plain_kb kB of code"
exit "$failed"
