# shellcheck shell=bash
# Shared by the scripts of this repository: source it, do not run it.
#
# Owns: the paths, the cache and its lock, messages, Debian packages, and the
# question where guests run (the probe).
#
#   VMM_CACHE   kernels and initramfs, shared by all clones (default ~/.cache/vmm)
#   VMM_RIG     "host" or "nested": overrules the probe
#   VMM_RESULTS set for commands under on_kvm: a folder whose files survive the run

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$repo/target
cache=${VMM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vmm}

# The scripts name the build by its path, so the build must not go elsewhere.
export CARGO_TARGET_DIR=$target

# apt and dpkg are read by these scripts: they must speak one language.
export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*" >&2; }

die() { # STATUS MESSAGE
  local status=$1
  shift
  say "${0##*/}: $*"
  exit "$status"
}

# Prints the comment block at the head of the calling script.
usage() { sed -n '2,/^[^#]/ { /^#/!q; s/^# \{0,1\}//; p }' "$0"; }

help_if_asked() {
  case ${1-} in -h | --help)
    usage
    exit 0
    ;;
  esac
}

# ---- the cache ---------------------------------------------------------------

# Runs a command while no other script changes the cache.
with_cache_lock() {
  local lock
  mkdir -p "$cache"
  exec {lock}>"$cache/lock"
  flock "$lock"
  "$@"
  exec {lock}>&-
}

# ---- Debian packages ---------------------------------------------------------

as_root() {
  if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq -o DPkg::Lock::Timeout=300 "$@"
}

# A repository that fails need not be the one wanted: the next step will tell.
refresh_package_lists() {
  say "refreshing the package lists"
  apt_get update >/dev/null || true
}

missing_packages() {
  local package
  for package; do
    [[ $(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
      printf '%s\n' "$package"
  done
}

install_packages() { apt_get install -y --no-install-recommends "$@" </dev/null; }

need_packages() {
  local missing log
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null ||
    die 1 "needs ${missing[*]}, and there is no apt-get to install them: install them by hand"
  say "installing ${missing[*]}"
  log=$(mktemp)
  install_packages "${missing[@]}" >"$log" 2>&1 ||
    { refresh_package_lists; install_packages "${missing[@]}" >"$log" 2>&1; } ||
    { tail -n 5 "$log" >&2 && die 1 "cannot install ${missing[*]}: see the lines above"; }
  rm -f "$log"
}

need_rust() {
  command -v cargo >/dev/null || die 1 "no cargo: install a Rust toolchain (rustup.rs)"
  command -v cc >/dev/null || need_packages gcc libc6-dev
}

# ---- where guests run --------------------------------------------------------

can_open_kvm() { (: <>/dev/kvm) 2>/dev/null; }

# Sets rig ("host" or "nested") and rig_reason. A /dev/kvm alone is not enough:
# drivers other than these two do not run a stock Linux kernel.
probe_rig() {
  if [[ -n ${VMM_RIG-} ]]; then
    rig=$VMM_RIG rig_reason="VMM_RIG=$VMM_RIG"
  elif ! can_open_kvm; then
    rig=nested rig_reason="/dev/kvm cannot be opened"
  elif [[ -d /sys/module/kvm_intel ]]; then
    rig=host rig_reason="/dev/kvm opens and kvm_intel is loaded"
  elif [[ -d /sys/module/kvm_amd ]]; then
    rig=host rig_reason="/dev/kvm opens and kvm_amd is loaded"
  else
    rig=nested rig_reason="/dev/kvm opens, but neither kvm_intel nor kvm_amd is behind it"
  fi
  case $rig in
    host | nested) ;;
    *) die 2 "VMM_RIG is '$rig': use host or nested" ;;
  esac
}

# Once per run of the outermost script. A caller may have set rig and rig_reason.
say_rig() {
  local where
  [[ -z ${VMM_RIG_SAID-} ]] || return 0
  export VMM_RIG_SAID=1
  [[ -n ${rig-} ]] || probe_rig
  case $rig in
    host) where="on the host's KVM" ;;
    nested) where="in the nested rig" ;;
  esac
  say "guests run $where, because $rig_reason"
}

# Makes the folder of one run, the latest being target/runs/last. Old ones go
# after a day: no run lives that long.
fresh_results() {
  local folder
  mkdir -p "$target/runs"
  find "$target/runs" -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf {} +
  folder=$(mktemp -d "$target/runs/$(date +%Y%m%d-%H%M%S)-XXXX")
  ln -sfn "$folder" "$target/runs/last"
  printf '%s\n' "$folder"
}

# on_kvm [-b] [-t SECONDS] COMMAND…: runs a command where KVM is, here or in the
# rig; the options are those of scripts/nested.
on_kvm() {
  local limit=0 batch=() OPTIND=1 option
  while getopts bt: option; do
    case $option in
      b) batch=(-b) ;;
      t) limit=$OPTARG ;;
      *) return 2 ;;
    esac
  done
  shift $((OPTIND - 1))
  probe_rig
  case $rig in
    host) VMM_RESULTS=${VMM_RESULTS:-$(fresh_results)} timeout --foreground -k 5 "$limit" "$@" ;;
    nested) "$repo/scripts/nested" "${batch[@]}" -t "$limit" "$@" ;;
  esac
}
