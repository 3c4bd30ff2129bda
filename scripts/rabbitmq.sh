#!/usr/bin/env bash
# Updates a RabbitMQ under load and counts what its clients lose: pushes of changed modules and rollbacks.
#
#   scripts/rabbitmq.sh
#
# Debian's rabbitmq-server is unpacked, not installed, and runs on this machine's Erlang, with a node name, ports and
# directories of its own, on loopback. AMQP and MQTT clients publish and consume all the time, and the management interface is asked.
# Five modules (channel, queue, two of MQTT, one of management) go to a new version, back, and there again. Then the module changes
# whose processes never leave the code that they began with (the reader): the way back from that would kill them, so that
# `--reload soft` may refuse it; it must then name them, and that is no loss.
#
#   RELSYNC        the binary (target/release/relsync)
#   RELSYNC_PAIRS  how many pairs of AMQP connections and how many MQTT clients (10)
#
# What the broker logged stays in target/rabbitmq/log.
#
# Exit codes: 0 nothing was lost, 1 something was, or an update failed, 3 this machine cannot run it.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
relsync=$(realpath "${RELSYNC:-$repo/target/release/relsync}")
pairs=${RELSYNC_PAIRS:-10}
kept=$repo/target/rabbitmq
scripts=$repo/scripts
work=$(mktemp -d "${TMPDIR:-/tmp}/relsync-rabbitmq.XXXXXX")
pids=()

say() { printf '%s\n' "$*" >&2; }
die() { say "rabbitmq: $*"; exit 1; }

finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do
    # The broker takes its time; nothing may stay behind.
    timeout 20 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap finish EXIT

# OTP applications that RabbitMQ needs and this machine's Erlang lacks.
missing_applications() {
  erl -noinput -boot no_dot_erlang -eval '
    [io:format("erlang-~s~n", [string:replace(atom_to_list(App), "_", "-", all)])
     || App <- [crypto, eldap, inets, mnesia, os_mon, parsetools, public_key, runtime_tools, ssl, syntax_tools, tools, xmerl],
        code:where_is_file(atom_to_list(App) ++ ".app") =:= non_existing],
    halt().'
}

fetch() {
  [ -e "$kept/.ready" ] && return
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { say "rabbitmq: no Debian packages here: not run"; exit 3; }
  rm -rf "$kept"
  mkdir -p "$kept/packages"
  local packages
  packages="rabbitmq-server $(missing_applications | paste -sd ' ')"
  # shellcheck disable=SC2086  # one word per package
  (cd "$kept/packages" && { apt-get -qq download $packages || { apt-get -qq update && apt-get -qq download $packages; }; } 2>/dev/null) ||
    die "cannot fetch: $packages"
  local package
  for package in "$kept"/packages/*.deb; do dpkg-deb -x "$package" "$kept/unpacked"; done
  python3 -m venv "$kept/venv"
  "$kept/venv/bin/pip" install --quiet --disable-pip-version-check pika paho-mqtt
  touch "$kept/.ready"
}

# edit NUMBER BEAM...: modules of the release change.
edit() { escript "$scripts/rabbitmq_recompile.escript" "$@"; }

free_ports() {
  python3 -c '
import socket
sockets = [socket.socket() for _ in range(4)]
for each in sockets: each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))'
}

start_broker() {
  cat >"$work/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$amqp_port
mqtt.listeners.tcp.1 = 127.0.0.1:$mqtt_port
management.tcp.ip = 127.0.0.1
management.tcp.port = $http_port
log.console = false
CONF
  echo '[rabbitmq_management, rabbitmq_mqtt].' >"$work/enabled_plugins"
  printf '%s' "$RELSYNC_COOKIE" >"$work/home/.erlang.cookie"
  chmod 600 "$work/home/.erlang.cookie"
  env -C "$work" HOME="$work/home" ERL_LIBS="$kept/unpacked/usr/lib/erlang/lib" \
    RABBITMQ_NODENAME="$node" RABBITMQ_CONFIG_FILE="$work/rabbitmq.conf" RABBITMQ_CONF_ENV_FILE=/dev/null \
    RABBITMQ_ENABLED_PLUGINS_FILE="$work/enabled_plugins" RABBITMQ_MNESIA_BASE="$work/mnesia" RABBITMQ_LOG_BASE="$work/log" \
    RABBITMQ_DIST_PORT="$dist_port" RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}" \
    "$device/sbin/rabbitmq-server" >"$work/broker.log" 2>&1 &
  pids+=($!)
}

# Waits for a minute until a file exists, as long as the process lives.
await() {
  local tries
  for tries in $(seq 300); do
    [ -e "$1" ] && return
    kill -0 "$2" 2>/dev/null || break
    sleep 0.2
  done
  die "$3 (tries: $tries): $(tail -5 "$work"/*.log)"
}

# update NAME applied|refusable ARGS...: runs relsync, prints a line of figures, and fails unless it did what it should, or, where
# that is as good, refused and named the processes in the way.
update() {
  local name=$1 wanted=$2 code=0
  shift 2
  "$relsync" "$@" --json -d "$node" -p "$device" >"$work/result" 2>"$work/errors" || code=$?
  python3 - "$name" "$wanted" "$code" "$work/result" <<'PYTHON'
import json, sys, time
name, wanted, code, path = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
result = json.loads(open(path).read().splitlines()[-1])
error = result.get("error") or {}
reloaded = [m["module"] for m in result.get("modules") or [] if m["status"] in ("reload", "load")]
figures = f"{name}: exit {code}, {result['outcome']}"
if code == 0:
    figures += (f"; {len(reloaded)} modules reloaded; downtime {result['downtime_ms']:.0f} ms; "
                f"{result['sent_bytes']} bytes sent, {result['received_bytes']} received")
print(time.strftime("%H:%M:%S"), figures)
if error:
    print(f"  {error['kind']}: {error['message'][:300]}")
is_refusal = code == 1 and error.get("kind") == "in_use" and "<" in error["message"]
sys.exit(0 if code == 0 or (is_refusal and wanted == "refusable") else 1)
PYTHON
}

fetch
[ -x "$relsync" ] || die "there is no $relsync: cargo build --release"
read -r amqp_port mqtt_port http_port dist_port < <(free_ports)
node=relsync_rabbit_$$@localhost
device=$work/device
mkdir -p "$work/home"
export RELSYNC_STORE=$work/store RELSYNC_COOKIE=relsync_rabbit_$$
cp -a "$kept"/unpacked/usr/lib/rabbitmq/lib/rabbitmq_server-* "$device"
cp -a "$device" "$work/release"

start_broker
mkdir "$work/clients"
"$kept/venv/bin/python" - "$amqp_port" "$mqtt_port" "$http_port" <<'PYTHON' || die "the broker does not start: $(tail -20 "$work/broker.log")"
import socket, sys, time
end = time.monotonic() + 90
for port in map(int, sys.argv[1:]):
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            break
        except OSError:
            if time.monotonic() > end: sys.exit(1)
            time.sleep(0.3)
PYTHON
update 'first push, nothing differs' applied push -l "$work/release"
"$kept/venv/bin/python" "$scripts/rabbitmq_clients.py" "$amqp_port" "$mqtt_port" "$http_port" "$pairs" "$work/clients" \
  >"$work/report" 2>"$work/clients.log" &
clients=$!
pids+=("$clients")
await "$work/clients/ready" "$clients" 'the clients do not all connect'

failed=0
sleep 3
cd "$work/release/plugins"
edit 1 rabbit-*/ebin/rabbit_{channel,amqqueue_process}.beam rabbitmq_mqtt-*/ebin/rabbit_mqtt_{reader,processor}.beam \
  rabbitmq_management-*/ebin/rabbit_mgmt_util.beam
for step in 1 2; do
  update "push of five modules" applied push -l "$work/release" || failed=1
  sleep 4
  [ $step = 2 ] || update 'rollback' applied rollback || failed=1
  sleep 4
done
edit 1 rabbit-*/ebin/rabbit_reader.beam
update 'push of the reader' applied push -l "$work/release" || failed=1
sleep 4
update 'rollback' refusable rollback || failed=1
sleep 4
touch "$work/clients/stop"
wait "$clients" || failed=1
"$kept/venv/bin/python" - "$work/report" <<'PYTHON'
import json, sys
for kind, counts in json.load(open(sys.argv[1])).items():
    print(f"{kind}: {counts['connections']} connections, {counts['connections_lost']} lost; {counts['sent']} messages sent, "
          f"{counts['confirmed']} confirmed, {counts['received']} received, {counts['messages_lost']} lost")
    for why in counts["why"]: print(f"  {why}")
PYTHON
rm -rf "$kept/log"
cp -r "$work/log" "$kept/log"
crashes=$(cat "$work"/log/*.log | grep -cE 'CRASH REPORT|badfun|crasher:' || true)
printf 'crashes in the broker'"'"'s log: %s\n' "$crashes"
[ "$crashes" = 0 ] && [ "$failed" = 0 ] || die "clients lost something, or an update failed"
