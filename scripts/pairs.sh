#!/usr/bin/env bash
# Makes pairs of real releases, old and new, from Debian's packages, for the delta benchmark.
#
#   scripts/pairs.sh [NAME...]      all pairs, or those whose names begin with one of NAMEs
#   RELSYNC_PAIRS=target/pairs cargo bench -p relsync-engine --bench delta
#
# A pair is DIR/NAME/{old,new}, the files of one kind (BEAM files, native executables) with versions taken out of
# directory names, and DIR/NAME/about, a line that says what was compared. Nothing is installed. A pair that is
# there is left alone; one of which Debian has not both versions any more is reported and left out.
#
#   RELSYNC_PAIRS_DIR    where pairs go (target/pairs)
#   RELSYNC_DEB_MIRROR   the Debian mirror (the first in the machine's own apt sources)
#
# Exit codes: 0 all pairs are there, 1 some are not, 3 this machine cannot make pairs.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pairs_dir=${RELSYNC_PAIRS_DIR:-$repo/target/pairs}
# shellcheck source=scripts/debian.bash
source "$repo/scripts/debian.bash"

suites=(bullseye bullseye-security bookworm bookworm-security bookworm-backports trixie trixie-security
  trixie-backports forky sid)

otp='erlang-base erlang-asn1 erlang-crypto erlang-eldap erlang-ftp erlang-inets erlang-mnesia erlang-os-mon
  erlang-parsetools erlang-public-key erlang-runtime-tools erlang-snmp erlang-ssh erlang-ssl erlang-syntax-tools
  erlang-tftp erlang-tools erlang-xmerl'
p1='erlang-p1-cache-tab erlang-p1-mysql erlang-p1-oauth2 erlang-p1-pgsql erlang-p1-pkix erlang-p1-sip erlang-p1-stringprep
  erlang-p1-stun erlang-p1-tls erlang-p1-utils erlang-p1-xml erlang-p1-xmpp erlang-p1-yaml erlang-p1-zlib'

# Name, suite of the old and of the new version, kinds of pairs, packages.
sources() {
  local release
  # Revisions of one release, by the same compiler.
  for release in '23 bullseye bullseye-security' '25 bookworm-security bookworm' '27 trixie trixie-security' '29 forky sid'; do
    # shellcheck disable=SC2086  # three words
    printf 'otp-%s %s %s beams,stripped-gzip,native %s\n' $release "${otp//$'\n'/}"
  done
  echo "p1-25 bookworm bookworm-backports beams,stripped-gzip ${p1//$'\n'/}"
  echo "p1-27 trixie trixie-backports beams,stripped-gzip ${p1//$'\n'/}"
  echo 'ejabberd bookworm bookworm-backports beams,stripped-gzip ejabberd'
  # Across compilers.
  echo 'mochiweb trixie forky beams,stripped-gzip erlang-mochiweb'
  echo 'tsung bookworm forky beams,stripped-gzip tsung'
  echo 'elixir trixie forky beams,stripped-gzip elixir'
  echo 'otp-27-29 trixie forky native erlang-base'
}

say() { printf 'pairs: %s\n' "$*" >&2; }

# Those of the packages that a suite has; one that adds to another suite has not all.
in_suite() {
  local suite=$1
  shift
  apt-cache madison "$@" | awk -v "suite=$suite/main" '$6 == suite { print $1 "=" $3 }' | sort -u
}

# Fetches a suite's packages into a folder. What the mirror has lost is left out.
fetch() {
  local suite=$1 folder=$2 packages
  shift 2
  packages=$(in_suite "$suite" "$@")
  [ -n "$packages" ] || return 1
  mkdir -p "$folder"
  # shellcheck disable=SC2086  # one word per package
  (cd "$folder" && apt-get -qq download $packages 2>/dev/null) || say "not all packages of $suite are to be had"
}

# Unpacks the packages that both sides have, and writes down which version each side is.
unpack_both() {
  local scratch=$1 suite=$2 side package count=0
  for side in old new; do
    mkdir -p "$scratch/$side/files"
    for package in "$scratch/$side"/*.deb; do
      package=${package##*/}
      package=${package%%_*}
      compgen -G "$scratch/old/${package}_*" >/dev/null && compgen -G "$scratch/new/${package}_*" >/dev/null || continue
      dpkg-deb --fsys-tarfile "$scratch/$side/${package}_"*.deb |
        tar -x -C "$scratch/$side/files" --no-same-owner --wildcards './usr/lib/*' || return 1
      dpkg-deb --showformat "\${Package} \${Version} ($suite)" --show "$scratch/$side/${package}_"*.deb \
        >"$scratch/$side/version"
      count=$((count + 1))
    done
    suite=$3
  done
  [ "$count" -gt 0 ]
}

is_native() { [ "$(head -c 4 "$1" | tr -d '\0')" = $'\x7fELF' ]; }

# collect KIND FROM TO: copies the files of a kind, without the versions in their directories' names.
collect() {
  local kind=$1 from=$2 to=$3 file target
  mkdir -p "$to"
  while read -r file; do
    case $kind in
      native) is_native "$from/$file" || continue ;;
      *) [[ $file == *.beam ]] || continue ;;
    esac
    target=$to/$(sed -E 's#-[0-9][^/]*/#/#g' <<<"$file")
    mkdir -p "${target%/*}"
    cp "$from/$file" "$target"
  done < <(cd "$from" && find . -type f -size +0 \( -name '*.beam' -o -perm -100 -o -name '*.so' \) | sort)
  if [ "$kind" = stripped-gzip ]; then
    strip_beams "$to"
  fi
}

# Runs an expression on a folder with the newest OTP that is here, which knows the chunks of all.
in_newest_otp() {
  local newest
  newest=$("$repo/scripts/otp-run.sh" --list | tail -1)
  "$repo/scripts/otp-run.sh" "$newest" erl -noinput -boot no_dot_erlang -eval "[Folder] = init:get_plain_arguments(), $1, halt()." \
    -extra "$2"
}

# Strips as releases are stripped.
strip_beams() {
  in_newest_otp 'filelib:fold_files(Folder, "[.]beam$", true, fun(File, _) -> {ok, _} = beam_lib:strip(File) end, none)' "$1"
}

# The compilers of the beams in a folder.
compilers() {
  in_newest_otp '
    Compilers = filelib:fold_files(Folder, "[.]beam$", true, fun(File, All) ->
      case beam_lib:chunks(File, [compile_info]) of
        {ok, {_, [{compile_info, Info}]}} -> ordsets:add_element(proplists:get_value(version, Info, "?"), All);
        {error, beam_lib, _} -> All
      end
    end, []),
    io:format("~s", [lists:join(", ", Compilers)])' "$1"
}

make_pair() {
  local pair=$1 kind=$2 scratch=$3 side
  local partial=$pairs_dir/$pair.partial
  rm -rf "$partial"
  for side in old new; do
    collect "$kind" "$scratch/$side/files" "$partial/$side"
  done
  {
    printf '%s to %s' "$(cat "$scratch/old/version")" "$(cat "$scratch/new/version")"
    [ "$kind" = native ] || printf '; compiler %s to %s' "$(compilers "$scratch/old")" "$(compilers "$scratch/new")"
    echo
  } >"$partial/about"
  mv "$partial" "$pairs_dir/$pair"
  say "$pair: $(cat "$pairs_dir/$pair/about")"
}

# Makes those pairs of a source that are wanted and not there.
make_pairs() {
  local name=$1 old=$2 new=$3 kinds=$4 kind wanted=()
  shift 4
  for kind in ${kinds//,/ }; do
    [ -d "$pairs_dir/$name-$kind" ] || wanted+=("$kind")
  done
  [ ${#wanted[@]} -gt 0 ] || return 0
  local scratch=$pairs_dir/.scratch
  rm -rf "$scratch"
  if fetch "$old" "$scratch/old" "$@" && fetch "$new" "$scratch/new" "$@" && unpack_both "$scratch" "$old" "$new"; then
    for kind in "${wanted[@]}"; do
      make_pair "$name-$kind" "$kind" "$scratch"
    done
  else
    say "$name: not both of $old and $new have its packages"
    rm -rf "$scratch"
    return 1
  fi
  rm -rf "$scratch"
}

is_wanted() {
  local name=$1 prefix
  shift
  [ $# -gt 0 ] || return 0
  for prefix in "$@"; do
    [[ $name != "$prefix"* ]] || return 0
  done
  return 1
}

why=$(debian_missing)
if [ -n "$why" ]; then
  say "cannot make pairs here: $why"
  exit 3
fi
mkdir -p "$pairs_dir/.apt"
debian_apt_config "$pairs_dir/.apt" "${suites[@]}"
export ERL_CRASH_DUMP_BYTES=0 APT_CONFIG=$pairs_dir/.apt/apt.conf
apt-get -qq update
failed=0
while read -r -a row; do
  is_wanted "${row[0]}" "$@" || continue
  make_pairs "${row[@]}" </dev/null || failed=1
done < <(sources)
exit $failed
