# shellcheck shell=dash disable=SC2154 # steps, a disk that the test writes on, is set by it
# What keeps a script and its test in step: see tests/common/passthrough.rs.

# The test waits for a line that begins so.
tell() { echo "$@" >/dev/console; }

# Until the test has allowed a step.
await_step() { # NAME
  until read -r allowed _ <"$steps" && [ "$allowed" = "$1" ]; do
    sleep 0.2
    blockdev --flushbufs "$steps"
  done
}

# Until a command succeeds, for a minute at most.
await() { # COMMAND…
  tries=0
  until "$@"; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || return
    sleep 0.2
  done
}

# In the background; its output and its status are in /tmp/NAME and /tmp/NAME.status.
in_background() { # NAME COMMAND…
  background=$1
  shift
  rm -f "/tmp/$background.status"
  { "$@" >"/tmp/$background" 2>&1; echo $? >"/tmp/$background.status"; } &
}

ended() { [ -s "/tmp/$1.status" ]; }

outcome() { # NAME: of what was in the background
  await ended "$1" || return
  cat "/tmp/$1"
  read -r status <"/tmp/$1.status"
  return "$status"
}

queue() { # LUN ATTRIBUTE
  node=$(disk "0:0:0:$1")
  cat "/sys/block/${node#/dev/}/queue/$2"
}
