#!/usr/bin/env bash
# Tests the agent and relsyncd with the OTP releases that are here; `rebar3` in erlang/ does the rest.
#
#   scripts/erl-test.sh test          all tests, with every release
#   scripts/erl-test.sh only PATTERN  the test modules and suites that match the regular expression, with this machine's Erlang
#   scripts/erl-test.sh golden        the tests of golden vectors alone; with RELSYNC_BLESS=1 these write the vectors
#                                     that the Erlang side makes
#   scripts/erl-test.sh crash         the crash tests at every operation on files, not only at some
#
# Everything built goes to target/erl.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repo"
mkdir -p target
# A test that ends a node leaves its dump here, not beside the sources.
export ERL_CRASH_DUMP=$repo/target/erl_crash.dump

run() {
  local release=$1 what=$2
  shift 2
  scripts/otp-run.sh "$release" escript scripts/erl_test.escript "$what" "target/erl/$release" erlang/apps/relsync_lib:erlang/apps/relsyncd "$@"
}

own=$(erl -noinput -boot no_dot_erlang -eval 'io:format("~s", [erlang:system_info(otp_release)]), halt().')

case ${1:-} in
  test)
    # Two releases at once: most tests wait for nodes and timers. Each says everything when it has ended.
    logs=$(mktemp -d)
    trap 'rm -rf "$logs"' EXIT
    one() {
      local release=$1 status=0
      run "$release" tests >"$logs/$release" 2>&1 || status=$?
      { printf 'erl-test: OTP %s\n' "$release" && cat "$logs/$release"; } >&2
      return "$status"
    }
    export logs
    export -f one run
    scripts/otp-run.sh --list | xargs -P 2 -I RELEASE bash -euc 'one RELEASE'
    ;;
  only) run "$own" tests "${2:?which modules?}" ;;
  golden) run "$own" golden ;;
  crash) RELSYNC_CRASH=full run "$own" tests 'relsync_lib_(crash_SUITE|second_SUITE|disk_errors_tests|lost_writes_tests)' ;;
  *)
    echo 'usage: scripts/erl-test.sh test|only PATTERN|golden|crash' >&2
    exit 2
    ;;
esac
