#!/usr/bin/env bash
# The main job, for real: a node runs a release, a change is pushed while a client keeps calling it, the node answers with
# the new code, and is rolled back. Everything happens in a temporary directory and on loopback.
set -euo pipefail
cd "$(dirname "$0")/.."

relsync=${RELSYNC:-target/release/relsync}
# Not named after the checkout: erlc takes a path that begins like its working directory for one inside it.
work=$(mktemp -d "${TMPDIR:-/tmp}/demo-of-relsync.XXXXXX")
node="relsync_demo_$$@localhost"
cookie="demo$$"
export RELSYNC_COOKIE=$cookie RELSYNC_STORE=$work/store
pids=()

finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT

say() { printf '\n%s\n' "$*"; }
run() { printf '  $ %s\n' "relsync ${*}"; "$relsync" "$@" 2>&1 | sed 's/^/    /'; }

# Compiles the sample application into a release tree: $1 is the tree.
build_release() {
    local app=$1/lib/greeter-1.0.0
    mkdir -p "$app/ebin" "$1/releases/1.0.0"
    erlc +debug_info -o "$app/ebin" "$work"/src/*.erl
    cp "$work/src/greeter.app.src" "$app/ebin/greeter.app"
    echo '[{greeter, []}].' >"$1/releases/1.0.0/sys.config"
}

# Waits until the client has printed a line that holds $1.
await_client() {
    for _ in $(seq 100); do
        grep -qF "$1" "$work/client.log" && return
        sleep 0.1
    done
    echo "the client never saw: $1" >&2
    exit 1
}

say "1. A release is built and installed on the \"device\", as it would leave the factory."
cp -r demo/greeter/src "$work/src"
build_release "$work/release"
cp -r "$work/release" "$work/device"

say "2. The device runs it ($node); a client calls it without a pause."
erl -noinput -sname "$node" -setcookie "$cookie" -pa "$work"/device/lib/greeter-1.0.0/ebin \
    -eval 'ok = application:start(greeter).' >"$work/device.log" 2>&1 &
pids+=($!)
mkdir "$work/client"
touch "$work/client.log"
erlc -o "$work/client" demo/caller.erl
erl -noinput -hidden -sname "caller_$node" -setcookie "$cookie" -pa "$work/client" \
    -eval "timer:sleep(1500), caller:main(['$node', '$work/stop'])." >"$work/client.log" 2>&1 &
client=$!
pids+=("$client")
await_client '"Hello, world"'
cat "$work/client.log"

say "3. A first push: nothing is different, so only the agent is sent, once; the target now knows what it holds."
run push -d "$node" -p "$work/device" -l "$work/release"

say "4. The greeting is changed and the release is built again and pushed."
sed 's/"Hello, "/"Good morning, "/' demo/greeter/src/greeter.erl >"$work/src/greeter.erl"
build_release "$work/release"
run push -d "$node" -p "$work/device" -l "$work/release"
await_client '"Good morning, world"'
tail -1 "$work/client.log"

say "5. Back to what it was, without sending it again."
run rollback -d "$node" -p "$work/device"
for _ in $(seq 50); do [ "$(grep -c '"Hello, world"' "$work/client.log")" -ge 2 ] && break; sleep 0.1; done
touch "$work/stop"
wait "$client"
tail -2 "$work/client.log"
say "Done: no call was lost."
