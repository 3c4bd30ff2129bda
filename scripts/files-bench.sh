#!/usr/bin/env bash
# Measures what files cost: time, CPU time on the target and downtime, beside `rsync -a --fsync` through a private sshd.
#
#   scripts/files-bench.sh [TREE ...]
#
# Without arguments it takes two trees: Debian's rabbitmq-server, unpacked and not installed, and 60,000 small files. Each
# tree is pushed to an empty destination, then once more with every file changed, and the target is asked for its
# status. rsync does the first two as well. Everything happens on loopback and in a temporary directory (TMPDIR).
#
# RELSYNC names the binary to measure. STEPS=first leaves out the update and the status.
set -euo pipefail
cd "$(dirname "$0")/.."

relsync=${RELSYNC:-target/release/relsync}
work=$(mktemp -d "${TMPDIR:-/tmp}/files-bench.XXXXXX")
node="files_bench_$$@127.0.0.1"
export RELSYNC_COOKIE="bench$$" RELSYNC_STORE=$work/store HOME=$work
pids=()

finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT

for tool in erl rsync ssh ssh-keygen; do
    command -v "$tool" >/dev/null || { echo "files-bench: $tool is missing" >&2; exit 1; }
done
sshd=$(PATH=$PATH:/usr/sbin command -v sshd) || { echo "files-bench: sshd is missing" >&2; exit 1; }

start_node() {
    # No heart, no release: nothing but the agent works in it.
    erl -noinput -name "$node" -setcookie "$RELSYNC_COOKIE" -kernel inet_dist_use_interface '{127,0,0,1}' \
        >"$work/node.log" 2>&1 &
    vm=$!
    pids+=("$vm")
    for _ in $(seq 100); do
        # Nothing is there yet, which it says; it can be reached if that does not fail.
        "$relsync" doctor -d "$node" -p "$work/none" 2>&1 | grep -q 'FAIL connection' || return 0
        sleep 0.1
    done
    echo "files-bench: the node does not start" >&2
    exit 1
}

start_sshd() {
    port=$((20000 + $$ % 20000))
    ssh-keygen -q -t ed25519 -N '' -f "$work/host"
    ssh-keygen -q -t ed25519 -N '' -f "$work/user"
    cat >"$work/sshd_config" <<END
Port $port
ListenAddress 127.0.0.1
HostKey $work/host
AuthorizedKeysFile $work/user.pub
PidFile $work/sshd.pid
StrictModes no
UsePAM no
END
    mkdir -p /run/sshd
    "$sshd" -D -e -f "$work/sshd_config" >"$work/sshd.log" 2>&1 &
    pids+=($!)
    shell="ssh -q -p $port -i $work/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    # Says what the receiving side used.
    cat >"$work/receiver" <<END
#!/usr/bin/env bash
rsync "\$@"
code=\$?
times >"$work/receiver.times"
exit \$code
END
    chmod +x "$work/receiver"
    for _ in $(seq 100); do
        $shell 127.0.0.1 true 2>/dev/null && return
        sleep 0.1
    done
    echo "files-bench: sshd does not start" >&2
    exit 1
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }
# CPU time of the node in milliseconds.
cpu_ms() { awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print int(($12 + $13) * 1000 / hz) }' "/proc/$vm/stat"; }
# `times` of a shell, 0m1.234s 0m0.056s, in milliseconds.
receiver_ms() { tail -1 "$work/receiver.times" | tr 'ms' '  ' | awk '{ print int(($1 * 60 + $2 + $3 * 60 + $4) * 1000) }'; }
row() { printf '%-12s %-26s %7s %9s %11s %13s\n' "$@"; }

by_rsync() { # NAME STEP SOURCE DESTINATION
    local begun
    sync
    begun=$(now_ms)
    rsync -a --fsync --rsync-path="$work/receiver" -e "$shell" "$3/" "127.0.0.1:$4/"
    row "$1" "rsync -a --fsync, $2" "$(files "$3")" "$(($(now_ms) - begun))" "$(receiver_ms)" -
}

by_relsync() { # NAME STEP SOURCE DESTINATION
    local begun cpu downtime
    sync
    cpu=$(cpu_ms)
    begun=$(now_ms)
    "$relsync" push --json --new-destination --link-rate 1000M -E false --shared-libs -d "$node" -p "$4" -l "$3" >"$work/out" || {
        tail -1 "$work/out" >&2
        exit 1
    }
    local took=$(($(now_ms) - begun))
    downtime=$(tail -1 "$work/out" | sed -n 's/.*"downtime_ms":\([0-9.]*\).*/\1/p')
    row "$1" "relsync push, $2" "$(files "$3")" "$took" "$(($(cpu_ms) - cpu))" "$(LC_ALL=C printf '%.1f' "$downtime")"
}

files() { find "$1" -type f | wc -l; }

# Changes all files. Modules get a chunk that no loader looks at, so that nothing has to be reloaded.
change_all() {
    find "$1" -type f ! -name '*.beam' -exec sh -c 'for f; do echo >>"$f"; done' sh {} +
    erl -noinput -eval '
        [Dir] = init:get_plain_arguments(),
        [begin
             File = filename:join(Dir, Name),
             {ok, _, Chunks} = beam_lib:all_chunks(File),
             {ok, Beam} = beam_lib:build_module(Chunks ++ [{"Bnch", <<1>>}]),
             ok = file:write_file(File, Beam)
         end || Name <- filelib:wildcard("**/*.beam", Dir)],
        halt().' -extra "$1"
}

status() { # NAME DESTINATION
    local begun cpu
    cpu=$(cpu_ms)
    begun=$(now_ms)
    "$relsync" status --json -d "$node" -p "$2" >/dev/null
    row "$1" "relsync status" - "$(($(now_ms) - begun))" "$(($(cpu_ms) - cpu))" -
}

measure() { # NAME TREE
    local name=$1 tree=$2
    by_rsync "$name" "first copy" "$tree" "$work/rsync"
    by_relsync "$name" "first push" "$tree" "$work/device"
    [ "${STEPS:-all}" = first ] || {
        cp -a "$tree" "$work/changed"
        change_all "$work/changed"
        by_rsync "$name" "all files changed" "$work/changed" "$work/rsync"
        by_relsync "$name" "all files changed" "$work/changed" "$work/device"
        status "$name" "$work/device"
        rm -rf "$work/changed"
    }
    rm -rf "$work/rsync" "$work/device"
}

rabbitmq() {
    (cd "$work" && apt-get download -qq rabbitmq-server >/dev/null 2>&1 && dpkg-deb -x rabbitmq-server_*.deb "$work/package") || {
        echo "files-bench: rabbitmq-server cannot be downloaded, that tree is left out" >&2
        return 1
    }
    mv "$work"/package/usr/lib/rabbitmq/lib/rabbitmq_server-* "$work/rabbitmq"
}

small_files() {
    local app dir file
    for app in $(seq -w 20); do
        for dir in $(seq -w 30); do
            mkdir -p "$work/small/lib/app$app-1.0/priv/$dir"
            for file in $(seq -w 100); do
                echo "$app $dir $file" >"$work/small/lib/app$app-1.0/priv/$dir/$file.txt"
            done
        done
    done
}

start_node
start_sshd
row tree step files 'wall ms' 'target CPU' 'downtime ms'
if [ $# -gt 0 ]; then
    for tree in "$@"; do measure "$(basename "$tree")" "$tree"; done
else
    if rabbitmq; then measure rabbitmq "$work/rabbitmq"; fi
    small_files
    measure small "$work/small"
fi
