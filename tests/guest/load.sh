# shellcheck shell=dash disable=SC2154 # wwns, the disks' names, is set by the test
# fio writes and verifies on every disk, while these are reset, and lose their
# driver.

# fio on every disk at once: fio_on_all START SIZE OPTION…, in MiB. Its report is
# long, and a serial port slow.
fio_on_all() {
  start=$1 size=$2
  shift 2
  set -- --output=/tmp/fio --eta=never --name=global --thread --group_reporting --direct=1 --iodepth=32 --bsrange=4k-1m \
    --rw=randwrite --offset="${start}m" --size="${size}m" --verify=crc32c --verify_fatal=1 "$@"
  for wwn in $wwns; do
    find_disk "$wwn" || return
    # One engine waits in io_getevents, the other in io_uring_enter.
    case $engine in libaio) engine=io_uring ;; *) engine=libaio ;; esac
    set -- "$@" --name="$wwn" --filename="$disk" --ioengine=$engine
  done
  fio "$@"
  set -- $?
  grep -e err= -e verify -e 'io_u ' -e io= /tmp/fio
  return "$1"
}

in_background() { # COMMAND…; its status goes to /tmp/status
  rm -f /tmp/status
  { "$@" >/tmp/output 2>&1; echo $? >/tmp/status; } &
}

ended() { [ -e /tmp/status ]; }

outcome() { # of what was in the background
  cat /tmp/output
  read -r status </tmp/status
  return "${status:-1}"
}

# ---- resets --------------------------------------------------------------------

# Linux's driver has a handler for devices alone: the wider resets, which
# sg_reset would try next, are asked for by name.
reset_all() {
  for wwn in $wwns; do
    find_disk "$wwn" || continue
    sg_reset -N -d "$disk" || refused=$((refused + 1))
    resets=$((resets + 1))
    for wider in -t -b -H; do sg_reset -N $wider "$disk"; done >/dev/null 2>&1
  done
}

reset_until_ended() {
  resets=0 refused=0
  until ended; do
    reset_all
    sleep 0.3
  done
  wait
  echo "$resets resets"
  return $refused
}

# ---- the driver ----------------------------------------------------------------

# The first controller's device on its bus, whichever that is.
device=$(readlink -f /sys/bus/virtio/devices/virtio0)
device=${device%/*}
driver=$(readlink -f "$device/driver")

all_there() { for wwn in $wwns; do find_disk "$wwn" || return; done; }

await() { # COMMAND…
  tries=0
  until "$@"; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || return
    sleep 0.1
  done
}

sums() { # of what fio has verified
  for wwn in $wwns; do
    find_disk "$wwn" || return
    dd if="$disk" bs=1M count=16 iflag=direct 2>/dev/null | sha256sum
  done
}

rebind() {
  in_background fio_on_all 24 8 --time_based --runtime=120 --verify=0
  sleep 2
  ended && return 1 # it ought to run for longer
  echo "${device##*/}" >"$driver/unbind" || return
  await ended || return
  for wwn in $wwns; do ! find_disk "$wwn" || return; done
  echo "${device##*/}" >"$driver/bind" || return
  await all_there
}

# ---- all of it -----------------------------------------------------------------

section verify fio_on_all 0 16
sums >/tmp/before
in_background fio_on_all 16 8 --loops=3
section resets reset_until_ended
section verify-resets outcome
section rebind rebind
sums >/tmp/after
section same cmp /tmp/before /tmp/after
section verify-again fio_on_all 24 4
section complaints sh -c "dmesg | grep -e BUG: -e 'nobody cared' -e 'timed out'"
