# shellcheck shell=bash disable=SC2034,SC2154 # for and of those that source this
# Puts Debian's fio into an initramfs: source it after kernel.sh.
#
# That fio is linked with libraries for Ceph, Gluster, RDMA and their like: 80
# MB, which would cost each boot of an emulated guest ten seconds. What stands
# for them here is one small library with the same symbols, none to be called.

fio_packages=(fio binutils gcc libc6-dev)

fio_stubs='lib(gfapi|ibverbs|nbd|pmem|pmemblk|rados|rbd|rdmacm)[.]so'

# The symbols that fio wants of libraries which are not the host's own: "NAME@VERSION".
fio_foreign_symbols() {
  nm -D --undefined-only "$(command -v fio)" |
    awk '$1 == "U" && $2 !~ /@(GLIBC|LIBAIO|libnuma)|^(in|de)flate/ { print $2 }'
}

build_fio_stub() { # FILE: of all those symbols, under the versions that fio asks for
  local work
  work=$(mktemp -d)
  fio_foreign_symbols >"$work/symbols"
  sed 's/@.*//; s/.*/void &(void) { __builtin_trap(); }/' "$work/symbols" >"$work/stub.c"
  awk -F@ 'NF == 2 { names[$2] = names[$2] " " $1 ";" }
    END { for (version in names) print version " {" names[version] " };" }' "$work/symbols" >"$work/stub.map"
  cc -shared -fPIC -nostdlib -w -Wl,--version-script="$work/stub.map" -o "$1" "$work/stub.c"
  rm -rf "$work"
}

install_fio() { # ROOT
  local stub name
  mkdir -p "$1/lib"
  stub=$1/lib/fio-stub.so
  build_fio_stub "$stub"
  readelf -d "$(command -v fio)" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | grep -E "^$fio_stubs" |
    while read -r name; do ln -s fio-stub.so "$1/lib/$name"; done
  LD_LIBRARY_PATH=$1/lib install_programs "$1" fio
}
