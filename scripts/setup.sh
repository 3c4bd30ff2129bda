#!/usr/bin/env bash
# Installs what building relsync needs beyond Rust: a C compiler and Erlang.
#
#   scripts/setup.sh              for building and for the demo
#   scripts/setup.sh --tests      also what only the tests need: rebar3, Elixir, OpenSSH, dropbear, tools for file
#                                 capabilities
#   scripts/setup.sh --products   also what `make products` needs: Python with venv
#
# Does nothing, and asks no package index, when all is there. On Debian and Ubuntu the rest is installed with
# apt-get, as root or through sudo; elsewhere this names what is missing.
#
# Exit codes: 0 all is there, 1 something is missing and could not be installed, 2 usage.
set -euo pipefail

case ${1-} in
  '') wanted=() ;;
  --tests) wanted=(tests) ;;
  --products) wanted=(tests products) ;;
  *)
    echo 'usage: scripts/setup.sh [--tests | --products]' >&2
    exit 2
    ;;
esac

# Applications that the tests, `make check` and the target side's code use; kernel and stdlib come with any OTP.
applications=(crypto public_key ssl ssh eunit tools dialyzer)
oldest_release=25

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# The tests of errors from the kernel need it, on Linux; elsewhere they are passed over.
is_wanted_strace() { [ "$(uname)" = Linux ] && ! command -v strace >/dev/null; }

# Whether the caller asked for what this part needs.
wants() { case " ${wanted[*]-} " in *" $1 "*) true ;; *) false ;; esac; }

# Prints what is missing for building, for the tests and for the checks of real products, one Debian package a line.
missing_packages() {
  command -v cc >/dev/null || echo build-essential
  is_wanted_strace && echo strace
  if wants tests; then
    command -v rebar3 >/dev/null || echo rebar3
    command -v mix >/dev/null || echo elixir
    command -v ssh-agent >/dev/null || echo openssh-client
    [ "$(uname)" != Linux ] || [ -x /usr/sbin/sshd ] || echo openssh-server
    [ "$(uname)" != Linux ] || [ -x /usr/sbin/dropbear ] || echo dropbear-bin
    # They lie in /sbin, which only root has on its path.
    [ "$(uname)" != Linux ] || PATH=$PATH:/usr/sbin:/sbin command -v setcap >/dev/null || echo libcap2-bin
  fi
  if wants products; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  fi
  if ! command -v erl >/dev/null || ! command -v erlc >/dev/null; then
    echo erlang-base
    printf 'erlang-%s\n' "${applications[@]//_/-}"
    return
  fi
  erl -noinput -boot no_dot_erlang -eval '
    [case code:lib_dir(App) of
         {error, _} -> io:format("erlang-~s~n", [string:replace(atom_to_list(App), "_", "-", all)]);
         _Dir -> ok
     end || App <- ['"$(IFS=,; echo "${applications[*]}")"']],
    halt().'
}

apt_install() {
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq
    -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -o Acquire::http::Timeout=60)
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "not root and no sudo: please install: $*"
    apt=(sudo "${apt[@]}")
  fi
  # The index may be old or empty on a fresh machine; one source of several that fails does no harm by itself.
  "${apt[@]}" update || say "apt-get update failed, trying with the index there is"
  "${apt[@]}" install -y --no-install-recommends "$@" </dev/null >&2
}

command -v cargo >/dev/null || die "there is no cargo: install Rust (see rust-version in Cargo.toml), then run this again"

packages=$(missing_packages)
if [ -n "$packages" ]; then
  # shellcheck disable=SC2086  # one word per package
  if command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
    say "installing" $packages
    apt_install $packages || {
      say "apt-get failed, trying once more"
      sleep 10
      apt_install $packages
    } || die "could not install:" $packages
    packages=$(missing_packages)
  fi
  # shellcheck disable=SC2086
  [ -z "$packages" ] ||
    die "please install a C compiler and Erlang/OTP $oldest_release or newer with ${applications[*]};" \
      "missing (by Debian's names):" $packages
fi

release=$(erl -noinput -boot no_dot_erlang -eval 'io:format("~s", [erlang:system_info(otp_release)]), halt().')
[ "$release" -ge "$oldest_release" ] ||
  die "Erlang/OTP $release is too old to build with: $oldest_release or newer is needed"
