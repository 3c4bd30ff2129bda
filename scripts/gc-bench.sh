#!/usr/bin/env bash
# Measures `relsync store gc` beside `restic forget --prune`, on the same trees in one run.
#
#   scripts/gc-bench.sh [SNAPSHOTS [KEEP]]
#
# It makes a release of 300 files and 5.4 MB. Before each snapshot, it changes three of the files
# and a part of a fourth. relsync and restic each take all snapshots (1,000), then keep the last ones
# (10). Everything happens in a temporary directory (TMPDIR).
#
# RELSYNC names the binary to measure.
set -euo pipefail
cd "$(dirname "$0")/.."

relsync=$(realpath "${RELSYNC:-target/release/relsync}")
snapshots=${1:-1000}
keep=${2:-10}
work=$(mktemp -d "${TMPDIR:-/tmp}/gc-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
export RELSYNC_STORE=$work/store HOME=$work
export RESTIC_REPOSITORY=$work/restic RESTIC_PASSWORD=bench RESTIC_CACHE_DIR=$work/cache

command -v restic >/dev/null || { echo "gc-bench: restic is missing" >&2; exit 1; }

# Text of random bytes, which compresses to three quarters.
content() { head -c "$1" /dev/urandom | base64 -w0; }

mkdir -p "$work/rel/lib/app-1/ebin" "$work/rel/lib/app-1/priv"
for i in $(seq 299); do content 12000 >"$work/rel/lib/app-1/ebin/m$i.beam"; done
content 450000 >"$work/rel/lib/app-1/priv/data"

change() {
    local i at
    for i in 1 2 3; do
        content 12000 >"$work/rel/lib/app-1/ebin/m$((1 + ($1 * 7 + i * 101) % 299)).beam"
    done
    at=$(($1 * 9973 % 590000))
    content 750 | dd of="$work/rel/lib/app-1/priv/data" bs=1 seek="$at" conv=notrunc status=none
}

size() { du -s --apparent-size -B1 "$1" | cut -f1; }
files() { find "$1" -type f | wc -l; }

# timed COMMAND...: prints its seconds.
timed() {
    local start=$EPOCHREALTIME
    "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
    awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }'
}

restic init -q
for step in $(seq "$snapshots"); do
    change "$step"
    "$relsync" snapshot create "$work/rel" >/dev/null
    restic backup -q "$work/rel" >/dev/null
done

printf '%-32s %8s %14s %14s %12s %7s\n' "$snapshots snapshots, keep $keep" seconds before after freed files
row() {
    local name=$1 dir=$2 before seconds after
    shift 2
    before=$(size "$dir")
    seconds=$(timed "$@")
    after=$(size "$dir")
    printf '%-32s %8s %14s %14s %12s %7s\n' "$name" "$seconds" "$before" "$after" $((before - after)) "$(files "$dir")"
}
row "relsync store gc" "$RELSYNC_STORE" "$relsync" store gc --keep-last "$keep"
row "restic forget --prune" "$RESTIC_REPOSITORY" restic forget -q --keep-last "$keep" --prune
timed "$relsync" store check --read-data >/dev/null
timed restic check -q >/dev/null
