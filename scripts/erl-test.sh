#!/usr/bin/env bash
# Builds and examines the Erlang side.
#
#   scripts/erl-test.sh compile     compiles erlang/apps/*/src and erlang/boot, warnings are errors
#   scripts/erl-test.sh xref        compile, and looks for calls of functions that do not exist
#   scripts/erl-test.sh dialyzer    compile, and runs dialyzer where it is installed
#   scripts/erl-test.sh test        compile, all eunit tests in erlang/apps/*/test with this machine's Erlang, those
#                                   of relsync_lib with every other release that is here, and xref
#   scripts/erl-test.sh only PATTERN  compile, and the eunit modules that match the regular expression, with this machine's Erlang
#   scripts/erl-test.sh golden      compile, and the tests of golden vectors alone; with RELSYNC_BLESS=1 these write
#                                   the vectors that the Erlang side makes
#   scripts/erl-test.sh crash       the crash tests of the agent at every operation on files, not only at some
#
# Everything built goes to target/erl.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$repo/target/erl
examiner=$repo/scripts/erl_test.escript
cd "$repo"

say() { printf 'erl-test: %s\n' "$*" >&2; }

compile() {
  escript "$examiner" compile "$build/ebin" strict erlang/apps/*/src erlang/boot
}

run_xref() {
  compile
  escript "$examiner" xref "$build/ebin"
}

run_dialyzer() {
  compile
  if ! command -v dialyzer >/dev/null; then
    say "no dialyzer here: not run"
    return
  fi
  local release plt
  release=$(erl -noinput -boot no_dot_erlang -eval 'io:format("~s", [erlang:system_info(version)]), halt().')
  plt=$build/erts-$release.plt
  if [ ! -e "$plt" ]; then
    say "building dialyzer's table of OTP, once"
    dialyzer --quiet --build_plt --output_plt "$plt.partial" \
      --apps erts kernel stdlib crypto compiler public_key ssl ssh >&2 || [ -e "$plt.partial" ]
    mv "$plt.partial" "$plt"
  fi
  escript "$examiner" dialyzer "$build/ebin" "$plt"
}

# The agent must work on every release from 23 on, so its tests run on all that are here.
test_other_releases() {
  local own release
  own=$(erl -noinput -boot no_dot_erlang -eval 'io:format("~s", [erlang:system_info(otp_release)]), halt().')
  for release in $(scripts/otp-run.sh --list); do
    [ "$release" != "$own" ] || continue
    say "eunit of relsync_lib on OTP $release"
    scripts/otp-run.sh "$release" escript "$examiner" compile "$build/$release/ebin" tests erlang/apps/relsync_lib/src
    scripts/otp-run.sh "$release" escript "$examiner" eunit "$build/$release/ebin" "$build/$release/test" \
      erlang/apps/relsync_lib/test
  done
}

compile_with_faults() {
  escript "$examiner" compile "$build/faults/ebin" tests erlang/apps/*/src
}

run_golden() {
  compile_with_faults
  escript "$examiner" golden "$build/faults/ebin" "$build/faults/test" erlang/apps/*/test
}

run_tests() {
  compile
  say "eunit"
  compile_with_faults
  escript "$examiner" eunit "$build/faults/ebin" "$build/faults/test" erlang/apps/*/test
  test_other_releases
  escript "$examiner" xref "$build/ebin"
}

run_only() {
  compile_with_faults
  escript "$examiner" eunit "$build/faults/ebin" "$build/faults/test" --only "$1" erlang/apps/*/test
}

run_crash() {
  compile
  escript "$examiner" compile "$build/faults/ebin" tests erlang/apps/*/src
  RELSYNC_CRASH=full escript "$examiner" eunit "$build/faults/ebin" "$build/faults/test" \
    --only 'relsync_lib_(crash|disk_errors|lost_writes)_tests' erlang/apps/relsync_lib/test
}

case ${1:-} in
  compile) compile ;;
  xref) run_xref ;;
  dialyzer) run_dialyzer ;;
  test) run_tests ;;
  crash) run_crash ;;
  golden) run_golden ;;
  only) run_only "${2:?which modules?}" ;;
  *)
    echo 'usage: scripts/erl-test.sh compile|xref|dialyzer|test|crash|golden|only PATTERN' >&2
    exit 2
    ;;
esac
