#!/usr/bin/env bash
# Makes runnable roots of other OTP releases from Debian's packages, for tests and for building the agent.
#
#   scripts/otp-root.sh VERSION...        VERSION is 23, 25, 27 or 29
#
# A root is made beside its final place and renamed when complete, so an interrupted run leaves nothing that
# looks finished; a finished one is recognised by its stamp, and a second run returns at once. Needs apt-get,
# dpkg-deb and Debian's archive keyring, but no root rights and no debootstrap. `otp-run.sh` runs the roots.
#
#   RELSYNC_OTP_DIR      where the roots go (target/otp)
#   RELSYNC_DEB_MIRROR   the Debian mirror (the first in the machine's own apt sources)
#
# Exit codes: 0 all roots are there, 1 making one failed, 2 usage, 3 this machine cannot make roots.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
otp_dir=${RELSYNC_OTP_DIR:-$repo/target/otp}
# shellcheck source=scripts/debian.bash
source "$repo/scripts/debian.bash"

# Changing the layout or the packages changes the stamp, which makes old roots be built anew.
layout=1
packages=(erlang-base erlang-crypto erlang-asn1 erlang-public-key erlang-ssl erlang-ssh erlang-eunit)

say() { printf 'otp-root: %s\n' "$*" >&2; }
die() { local code=$1; shift; say "$*"; exit "$code"; }

suite_of() {
  case $1 in
    23) echo bullseye ;;
    25) echo bookworm ;;
    27) echo trixie ;;
    29) echo forky ;;
    *) return 1 ;;
  esac
}

stamp() { printf 'layout %s: %s\n' "$layout" "${packages[*]}"; }

is_ready() { [ "$(cat "$otp_dir/$1/.ready" 2>/dev/null)" = "$(stamp)" ]; }

# Downloads the packages and those libraries among their dependencies that run-time linking needs: nothing
# is executed inside a root but OTP's own programs, so that shells, perl and the like can stay away.
download() {
  local apt=$1
  export APT_CONFIG=$apt/apt.conf
  apt-get -qq update
  local wanted
  wanted=$(apt-get -qq --simulate install "${packages[@]}" |
    sed -nE 's/^Inst ((erlang|lib)[^ ]*) \(([^ ]+) .*/\1=\3/p')
  [ -n "$wanted" ] || { say "apt resolved no packages"; return 1; }
  # shellcheck disable=SC2086  # one word per package
  (cd "$apt/cache/archives" && apt-get -qq download $wanted)
}

unpack() {
  local apt=$1 root=$2 directory deb
  for directory in bin sbin lib lib32 lib64; do
    mkdir -p "$root/usr/$directory"
    ln -s "usr/$directory" "$root/$directory"
  done
  for deb in "$apt"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" |
      tar -x -C "$root" --keep-directory-symlink --no-same-owner \
        --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale \
        --exclude=./usr/share/lintian --exclude=./usr/lib/erlang/man --exclude=./usr/lib/systemd
  done
}

# OTP's programs name the system's dynamic loader, which has the wrong C library for them. So every program
# gets a shim in `shim/`, which starts it through the loader and libraries of its own suite. The shims find
# their root by their own path: a root may be moved or copied.
write_shims() {
  local root=$1 program
  mkdir -p "$root/shim"
  cat >"$root/shim/.run" <<'SHIM'
#!/bin/sh
# Starts the OTP program of this name through the dynamic loader and libraries of its own root.
# Each step is an exec: the process that was started is at last the emulator itself.
name=${0##*/}
shim=$(CDPATH= cd -- "${0%/*}" && pwd) || exit 126
root=${shim%/shim}
erlang=$root/usr/lib/erlang
for libc in "$root"/usr/lib/*/libc.so.6; do libraries=${libc%/*}; done
for loader in "$libraries"/ld-linux*.so.*; do :; done
for bin in "$erlang"/erts-*/bin; do :; done

# The machine's own epmd serves all releases; the root's is for machines without one.
if [ "$name" = epmd ]; then
  for epmd in /usr/bin/epmd /usr/local/bin/epmd; do
    [ -x "$epmd" ] && exec "$epmd" "$@"
  done
fi

# No settings, providers or locales of another release's libraries.
export OPENSSL_CONF=/dev/null OPENSSL_MODULES="$libraries/ossl-modules" LOCPATH="$root/usr/lib/locale"
export ROOTDIR="$erlang" BINDIR="$shim" EMU=beam
export ERLC_EMULATOR="$shim/erl" ESCRIPT_EMULATOR="$shim/erl"
case $name in
  erl) PROGNAME=erl; export PROGNAME; name=erlexec ;;
esac
exec "$loader" --library-path "$libraries" "$bin/$name" "$@"
SHIM
  chmod 755 "$root/shim/.run"
  for program in erl erlc escript erlexec beam.smp erl_child_setup inet_gethost heart epmd; do
    ln -s .run "$root/shim/$program"
  done
}

check_release() {
  local version=$1 root=$2 found
  found=$("$root/shim/erl" -noinput -boot no_dot_erlang -eval \
    'ok = application:start(crypto), io:format("~s", [erlang:system_info(otp_release)]), halt().')
  [ "$found" = "$version" ] || {
    say "Debian's $(suite_of "$version") holds OTP '$found', not $version"
    return 1
  }
}

make_root() {
  local version=$1 suite root apt
  suite=$(suite_of "$version")
  root=$otp_dir/$version.partial
  apt=$otp_dir/$version.apt
  rm -rf "$root" "$apt"
  mkdir -p "$root"
  say "OTP $version: fetching from Debian $suite"
  debian_apt_config "$apt" "$suite"
  download "$apt"
  unpack "$apt" "$root"
  write_shims "$root"
  check_release "$version" "$root"
  stamp >"$root/.ready"
  rm -rf "${otp_dir:?}/$version" "$apt"
  mv "$root" "$otp_dir/$version"
  say "OTP $version: ready in $otp_dir/$version"
}

# One process at a time makes a given root; those that waited find it ready.
make_root_locked() {
  local version=$1
  (
    flock 9
    is_ready "$version" || make_root "$version"
  ) 9>"$otp_dir/$version.lock"
}

[ $# -gt 0 ] || die 2 "usage: scripts/otp-root.sh VERSION..."
missing=()
for version in "$@"; do
  suite_of "$version" >/dev/null || die 2 "no Debian suite is known to hold OTP '$version' (23, 25, 27, 29 are)"
  is_ready "$version" || missing+=("$version")
done
[ ${#missing[@]} -gt 0 ] || exit 0

why=$(debian_missing)
[ -z "$why" ] || die 3 "cannot make OTP roots here: $why"

mkdir -p "$otp_dir"
jobs=()
for version in "${missing[@]}"; do
  make_root_locked "$version" &
  jobs+=($!)
done
failed=0
for index in "${!jobs[@]}"; do
  wait "${jobs[$index]}" || { say "OTP ${missing[$index]}: could not be made"; failed=1; }
done
exit $failed
