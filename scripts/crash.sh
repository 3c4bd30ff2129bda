#!/usr/bin/env bash
# Kills, cuts, fills and damages at every moment of an update, and prints one table of what was found afterwards.
#
#   scripts/crash.sh
#
# The agent's tests and those with real nodes run side by side. What they say goes to target/crash/*.log. Exits with 1 if
# anything but the old or the new release was found, or if a test failed otherwise; RELSYNC_CRASH_SEED repeats a run's random moments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=$PWD/target/crash
rm -rf "$out"
mkdir -p "$out"
export RELSYNC_CRASH=full RELSYNC_CRASH_REPORT=$out/report
: >"$RELSYNC_CRASH_REPORT"
begun=$SECONDS

# Built before the clock of any test runs.
cargo test --quiet --package relsync-tests --test it --no-run
cargo build --quiet --package relsync

scripts/erl-test.sh crash >"$out/agent.log" 2>&1 &
agent=$!
trap 'kill "$agent" 2>/dev/null || true' EXIT
failed=()
cargo test --package relsync-tests --test it -- crash:: --nocapture >"$out/nodes.log" 2>&1 || failed+=(nodes)
wait "$agent" || failed+=(agent)
trap - EXIT

grep -hE '^SKIPPED|RELSYNC_CRASH_SEED=' "$out"/*.log | sort -u || true
{
  printf 'scenario\tpoints\told\tnew\tanything else\n'
  sort "$RELSYNC_CRASH_REPORT"
  awk -F'\t' '{ for (i = 2; i <= 5; i++) sum[i] += $i }
    END { printf "all\t%d\t%d\t%d\t%d\n", sum[2], sum[3], sum[4], sum[5] }' "$RELSYNC_CRASH_REPORT"
} | awk -F'\t' '{ printf "%-55s %8s %8s %8s %14s\n", $1, $2, $3, $4, $5 }'
printf '%d minutes\n' $(((SECONDS - begun + 59) / 60))

for part in "${failed[@]}"; do
  printf 'FAILED: see %s\n' "$out/$part.log" >&2
done
[ ${#failed[@]} -eq 0 ] && [ -s "$RELSYNC_CRASH_REPORT" ] && awk -F'\t' '$5 > 0 { exit 1 }' "$RELSYNC_CRASH_REPORT"
