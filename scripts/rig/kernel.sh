# shellcheck shell=bash disable=SC2154 # cache is lib.sh's
# Debian's stock kernels in the cache, and initramfs built from them: source it
# after lib.sh.
#
# Owns: $cache/kernel/VERSION, a link to the unpacked package, made last, so
# that it stands for a complete one. What is cached is kept: a newer package is
# looked for only on renew_kernel, and tests do not change under one's feet.

# shellcheck disable=SC2034 # for those that source this
rig_packages=(busybox-static cpio kmod xz-utils zstd)

# The meta package is the lasting name: security updates replace the kernel
# packages themselves, and withdraw the old ones.
kernel_meta_package() { # VERSION
  case $1 in
    6.1) echo linux-image-amd64 ;;
    6.12) echo linux-image-6.12-amd64 ;;
    *) die 2 "no kernel $1: use 6.1 or 6.12" ;;
  esac
}

kernel_package() { # VERSION
  local package
  package=$(apt-cache depends "$(kernel_meta_package "$1")" 2>/dev/null |
    sed -n "s/^ *Depends: \(linux-image-$1\..*\)/\1/p" | head -n 1)
  [[ -n $package ]] && printf '%s\n' "$package"
}

package_field() { # PACKAGE FIELD
  apt-cache show --no-all-versions "$1" | sed -n "s/^$2: //p"
}

download_package() { # PACKAGE FOLDER
  local sum
  sum=$(package_field "$1" SHA256)
  (cd "$2" && apt-get -qq download "$1" 2>/dev/null) || return
  sha256sum --check --quiet <<<"$sum  $(echo "$2"/*.deb)" >&2
}

unpack_kernel() { # FOLDER: its package, beside its modules' index
  dpkg-deb -x "$1"/*.deb "$1" && rm "$1"/*.deb &&
    depmod -b "$1" "$(kernel_release "$1")"
}

try_renew_kernel() { # VERSION
  local version=$1 package name work
  package=$(kernel_package "$version") || return
  name=${package}_$(package_field "$package" Version)
  if [[ ! -d $cache/kernel/$name ]]; then
    say "downloading $name"
    work=$(mktemp -d "$cache/kernel/new.XXXXXX")
    chmod 755 "$work"
    if ! { download_package "$package" "$work" && unpack_kernel "$work"; }; then
      rm -rf "$work"
      return 1
    fi
    mv "$work" "$cache/kernel/$name"
  fi
  ln -sfn "$name" "$cache/kernel/$version"
}

renew_kernel() { # VERSION
  mkdir -p "$cache/kernel"
  # Lists may be absent, or older than the packages on the mirror.
  try_renew_kernel "$1" || { refresh_package_lists; try_renew_kernel "$1"; } ||
    die 1 "cannot get Debian's kernel $1: see that apt-get download $(kernel_meta_package "$1") works"
}

need_kernel() { # VERSION
  [[ -d $cache/kernel/$1 ]] || renew_kernel "$1"
}

kernel_folder() { readlink -f "$cache/kernel/$1"; } # VERSION
kernel_release() { ls "$1/lib/modules"; }           # FOLDER

# ---- the kernel's ELF file ----------------------------------------------------

# A field of a bzImage's header, little-endian (Linux boot protocol, "Details of
# Header Fields").
header_field() { od -An -v -j "$(($2))" -N "$3" -t "u$3" "$1" | tr -d ' '; } # FILE OFFSET BYTES

# Writes boot/vmlinux: what the bzImage's own code would unpack.
extract_vmlinux() { # KERNEL-FOLDER
  local bzimage start length payload
  bzimage=$1/boot/vmlinuz-$(kernel_release "$1") payload=$1/boot/payload.$$
  start=$((($(header_field "$bzimage" 0x1f1 1) + 1) * 512 + $(header_field "$bzimage" 0x248 4)))
  length=$(header_field "$bzimage" 0x24c 4)
  ((length -= 4)) # the last four bytes are its size
  head -c $((start + length)) "$bzimage" | tail -c "$length" >"$payload"
  case $(head -c 4 "$payload" | od -An -tx1 | tr -d ' ') in
    fd377a58) xz -dc <"$payload" ;;
    28b52ffd) zstd -dcq <"$payload" ;;
    *) die 1 "the kernel in $bzimage is packed in a way unknown here" ;;
  esac >"$payload.elf"
  mv "$payload.elf" "$1/boot/vmlinux"
  rm "$payload"
}

# ---- initramfs ---------------------------------------------------------------

# A merged-/usr skeleton with every applet of busybox.
lay_out_root() { # ROOT
  local root=$1 applet
  mkdir -p "$root"/{dev,etc,mnt,proc,root,run,sys,tmp,usr/{bin,lib,lib64}}
  ln -s usr/bin usr/lib usr/lib64 "$root"
  ln -s usr/bin "$root/sbin"
  ln -s bin "$root/usr/sbin"
  cp "$(command -v busybox)" "$root/bin/busybox"
  for applet in $(busybox --list); do
    [[ -e $root/bin/$applet ]] || ln -s busybox "$root/bin/$applet"
  done
}

# Copies modules and what they need, as plain .ko files that busybox can load.
install_modules() { # KERNEL-FOLDER ROOT MODULE…
  local kernel=$1 root=$2 release file
  release=$(kernel_release "$kernel")
  shift 2
  modprobe -d "$kernel" -S "$release" -a --show-depends "$@" |
    sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u |
    while read -r file; do install_module "$kernel" "$root" "$file"; done
  cp "$kernel/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} "$root/lib/modules/$release/"
  depmod -b "$root" "$release"
}

install_module() { # KERNEL-FOLDER ROOT FILE
  local kernel=$1 root=$2 file=$3 copy
  copy=$root${file#"$kernel"}
  copy=${copy%.ko*}.ko
  mkdir -p "${copy%/*}"
  case $file in
    *.xz) xz -dc "$file" >"$copy" ;;
    *.zst) zstd -dcq "$file" >"$copy" ;;
    *) cp "$file" "$copy" ;;
  esac
  drop_signature "$copy"
}

# Verifying a module's signature takes an emulated CPU some 50 ms. It is
# appended: the data, 12 bytes of which the last 4 are its length, a marker.
drop_signature() { # FILE
  local marker='~Module signature appended~' length
  [[ $(tail -c 28 "$1") == "$marker" ]] || return 0
  length=$(tail -c 32 "$1" | od -An -N4 -tu4 --endian=big)
  truncate -s -$((length + 12 + 28)) "$1"
}

# Copies programs of the host and their libraries; they stand before busybox's.
install_programs() { # ROOT PROGRAM…
  local root=$1 program library
  shift
  for program; do
    cp -L --remove-destination "$(command -v "$program")" "$root/bin/${program##*/}" ||
      die 1 "cannot put $program into an initramfs: it is not installed"
  done
  ldd "${@/#/$root/bin/}" | grep -o '/[^ :]*\.so[^ :]*' | sort -u |
    while read -r library; do
      [[ $library != "$root"/* ]] || continue # there already
      mkdir -p "$root${library%/*}"
      cp -Ln "$library" "$root$library"
    done
}

# Copies shared libraries of the host by their names.
install_libraries() { # ROOT LIBRARY…
  local root=$1 library file
  shift
  for library; do
    file=$(ldconfig -p | sed -n "s|^\s*$library (.*x86-64.*) => ||p" | head -n 1)
    mkdir -p "$root${file%/*}"
    cp -L "$file" "$root$file" || die 1 "cannot put $library into an initramfs: it is not installed"
  done
}

# A guest's initramfs, followed by one with a /cmd: the guest will run that.
with_command() { # INITRAMFS COMMAND-FILE
  local work
  work=$(mktemp -d)
  cp "$2" "$work/cmd"
  cat "$1"
  (cd "$work" && cpio -o -H newc --quiet <<<cmd)
  rm -rf "$work"
}

# Uncompressed: unpacking costs an emulated guest more than reading.
pack_root() { # ROOT FILE
  (cd "$1" && find . -mindepth 1 -printf '%P\n' | sort |
    cpio -o -H newc --quiet --reproducible -R 0:0) >"$2.new"
  mv "$2.new" "$2"
}
