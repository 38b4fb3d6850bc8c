# shellcheck shell=dash
# What every script in a guest may use.

# section NAME COMMAND…: the command's output between lines <NAME> and </NAME>,
# with its exit status as the last line, after the seconds since the boot.
section() {
  section=$1
  shift
  echo
  read -r uptime _ </proc/uptime
  echo "at $uptime s"
  echo "<$section>"
  "$@" 2>&1
  echo "status $?"
  echo "</$section>"
}

# The names of a logical unit, by H:C:T:L: Linux gives them in no certain order.
disk() { name "$1" block; }
generic() { name "$1" scsi_generic; }
name() { for name in "/sys/class/scsi_device/$1/device/$2"/*; do echo "/dev/${name##*/}"; done; }

# The disk of a WWN. Forks are dear: none here.
find_disk() { # WWN: sets disk
  for disk in /sys/block/sd*; do
    { read -r wwn <"$disk/device/wwid"; } 2>/dev/null || continue
    disk=/dev/${disk##*/}
    [ "$wwn" != "$1" ] || return 0
  done
  disk=none
  return 1
}

# What the kernel complains of. An emulated L1 processor draws a warning about
# its XSAVE area, in L1 too.
complaints() {
  dmesg | grep -v xstate | grep -e 'not using ECAM' -e 'Firmware Bug' -e 'BUG:' -e 'WARNING:' \
    -e 'nobody cared' -e 'I/O error' -e 'EXT4-fs error' -e 'abort' -e 'timed out'
}
