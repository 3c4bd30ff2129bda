#!/usr/bin/env bash
# Runs a program of a certain OTP release, on the machine's own file system and network.
#
#   scripts/otp-run.sh VERSION erl|erlc|escript ARGS...
#   scripts/otp-run.sh --list              the releases that can be run here, one a line
#
# Takes the root that `otp-root.sh` made, else the machine's own Erlang if it is of that release. Execs all the
# way: the process that was started becomes the emulator, so signals sent to it reach the emulator itself.
#
#   RELSYNC_OTP_DIR      where the roots are (target/otp)
#
# Exit codes: the program's own; 2 usage, 3 that release is not here.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
otp_dir=${RELSYNC_OTP_DIR:-$repo/target/otp}

usage() {
  echo 'usage: scripts/otp-run.sh VERSION erl|erlc|escript ARGS... | --list' >&2
  exit 2
}

# The release of the machine's own Erlang, or nothing. Reads a file, because starting a node takes its time.
host_release() {
  local erl
  erl=$(command -v erl) || return 0
  erl=$(readlink -f "$erl")
  # `erl` lies in ROOT/bin or in ROOT/erts-N/bin; start_erl.data holds the emulator's version and the release.
  local root=${erl%/bin/*}
  root=${root%/erts-*}
  cut -d' ' -f2 "$root/releases/start_erl.data" 2>/dev/null || true
}

list() {
  {
    for ready in "$otp_dir"/*/.ready; do
      [ -e "$ready" ] && basename "${ready%/.ready}"
    done
    host_release
  } | grep -E '^[0-9]+$' | sort -nu
}

[ $# -ge 1 ] || usage
if [ "$1" = --list ]; then
  list
  exit 0
fi
[ $# -ge 2 ] || usage
version=$1 program=$2
shift 2
case $program in
  erl | erlc | escript) ;;
  *) usage ;;
esac

if [ -e "$otp_dir/$version/.ready" ]; then
  exec "$otp_dir/$version/shim/$program" "$@"
elif [ "$(host_release)" = "$version" ]; then
  exec "$program" "$@"
fi
echo "otp-run: OTP $version is not here (make otp-roots, or scripts/otp-root.sh $version)" >&2
exit 3
