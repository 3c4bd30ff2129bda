# Fetches and unpacks Debian packages without installing them; sourced by otp-root.sh and pairs.sh.
#
# What is fetched shares nothing with the machine's own apt but its mirror, proxy and timeouts. Neither root
# rights nor debootstrap are needed, only apt-get, dpkg-deb and Debian's archive keyring.

debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The first mirror of Debian itself (not of its security updates) that the machine's own apt uses.
debian_mirror() {
  if [ -n "${RELSYNC_DEB_MIRROR:-}" ]; then
    echo "$RELSYNC_DEB_MIRROR"
    return
  fi
  {
    sed -nE 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p' /etc/apt/sources.list.d/debian.sources || true
    sed -nE 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p' /etc/apt/sources.list || true
  } 2>/dev/null | sed -nE '\#/debian/?$#{p;q}'
}

# Says why nothing can be fetched on this machine, or nothing.
debian_missing() {
  local tool
  for tool in apt-get dpkg dpkg-deb tar flock; do
    command -v "$tool" >/dev/null || { echo "there is no $tool (they come from Debian's packages)"; return; }
  done
  [ -n "$(debian_mirror)" ] || { echo "apt's sources name no Debian mirror (or set RELSYNC_DEB_MIRROR)"; return; }
  [ -r "$debian_keyring" ] || echo "there is no $debian_keyring to verify Debian's packages with"
}

# debian_apt_config DIR SUITE...: an apt configuration in DIR/apt.conf and the state it needs.
# A suite whose name ends in -security comes from the mirror beside the main one.
debian_apt_config() {
  local apt=$1 suite mirror
  shift
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,etc/sources.list.d,etc/preferences.d}
  for suite in "$@"; do
    mirror=$(debian_mirror)
    case $suite in *-security) mirror=${mirror%/}-security ;; esac
    echo "deb [signed-by=$debian_keyring] $mirror $suite main"
  done >"$apt/etc/sources.list"
  : >"$apt/status"
  cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/etc/sources.list";
Dir::Etc::sourceparts "$apt/etc/sources.list.d";
Dir::Etc::preferences "$apt/etc/preferences";
Dir::Etc::preferencesparts "$apt/etc/preferences.d";
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Architecture "$(dpkg --print-architecture)";
APT::Architectures { "$(dpkg --print-architecture)"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Post-Invoke-Success "";
Acquire::Retries "3";
Acquire::http::Timeout "60";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Binary::apt-get::APT::Keep-Downloaded-Packages "true";
Debug::NoLocking "true";
CONF
}
