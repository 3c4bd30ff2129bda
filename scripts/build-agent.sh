#!/usr/bin/env bash
# Builds the agent that the host embeds, from erlang/apps/relsync_lib and erlang/apps/relsync_boot.
#
#   scripts/build-agent.sh [OUT]           OUT is engine/agent
#
# Writes agent-23.blob (compiled by OTP 23, for 23 to 25), agent-26.blob (compiled by OTP 27, for 26 and newer),
# boot.txt, and sources.sha256, which says what they were made from and what came out. Two runs over the same
# sources give the same bytes. Needs the roots of OTP 23 and 27 (`make otp-roots`).
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-$repo/engine/agent}
app=$repo/erlang/apps/relsync_lib
boot=("$repo"/erlang/apps/relsync_boot/src/relsync_{boot,fetch,stdio}.erl)
builder=$repo/scripts/agent_blob.escript

mkdir -p "$out"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

build() {
  local version=$1
  shift
  "$repo/scripts/otp-run.sh" "$version" escript "$builder" "$@"
}

build 27 blob "$made/agent-26.blob" "$app/src" r26 &
newer=$!
build 23 blob "$made/agent-23.blob" "$app/src"
build 23 boot "$made/boot.txt" "${boot[@]}"
wait "$newer"

# In the format of sha256sum, sorted bytewise by path.
digest_sources() {
  cd "$repo"
  find erlang/apps/relsync_{boot,lib}/src -name '*.[eh]rl' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
}
digest_outputs() {
  cd "$made"
  sha256sum agent-23.blob agent-26.blob boot.txt | sed 's#  #  engine/agent/#'
}
{ (digest_sources); (digest_outputs); } >"$made/sources.sha256"

for file in agent-23.blob agent-26.blob boot.txt sources.sha256; do
  cmp -s "$made/$file" "$out/$file" || cp "$made/$file" "$out/$file"
done
