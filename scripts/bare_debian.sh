#!/usr/bin/env bash
# Runs both commands of README.md, the demo and all tests, in a bare Debian: a root of its own that holds Debian's
# `minbase` and what README.md names under Prerequisites, and nothing else.
#
#   scripts/bare_debian.sh [OPTIONS] [COMMAND [ARGUMENT...]]
#
#   --root DIR        where the root is made, or found made earlier [/tmp/twotower-bare-debian]
#   --suite NAME      Debian's release [bookworm]
#   --toolchain DIR   the Rust toolchain, a folder with bin/cargo [the one of `rustc --print sysroot`]
#   --cargo-home DIR  cargo's folder of downloaded crates [a new one within the root]
#   --target DIR      cargo's folder of what is built [a new one within the root]
#   --ca FILE         certificates to trust in the root, where a proxy has one of its own [Debian's]
#
# A COMMAND runs in place of both, for example: scripts/bare_debian.sh scripts/test.sh --test signals
#
# Needs debootstrap, util-linux and the rights of root, and about 8 GB below DIR. The root gets a clean clone of the
# commit that is checked out: what is not committed is not there. The toolchain of the host is mounted read-only,
# and stands for one from rustup.rs; the folders of --cargo-home and --target are mounted at their places, and
# written. What was built elsewhere may be given only if that was with the same toolchain and the same C library.
# All mounts are in a name space of their own and end with the script.
set -euo pipefail

fail() { echo "bare_debian.sh: $*" >&2; exit 1; }
say() { echo "bare_debian.sh: $*" >&2; }

root=/tmp/twotower-bare-debian suite=bookworm toolchain= cargo_home= target= ca=
while [ $# -gt 0 ]; do
  case $1 in
    --root) root=$2; shift 2 ;;
    --suite) suite=$2; shift 2 ;;
    --toolchain) toolchain=$2; shift 2 ;;
    --cargo-home) cargo_home=$2; shift 2 ;;
    --target) target=$2; shift 2 ;;
    --ca) ca=$2; shift 2 ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit ;;
    -*) fail "no option $1; scripts/bare_debian.sh --help lists them" ;;
    *) break ;;
  esac
done

[ "$(id -u)" = 0 ] || fail "making a Debian root takes the rights of root: run it with sudo"
for tool in debootstrap unshare git; do
  command -v "$tool" >/dev/null || fail "\`$tool\` not found: apt-get install debootstrap util-linux git"
done
repository=$(realpath "$(dirname "$0")/..")
toolchain=${toolchain:-$(cd "$repository" && rustc --print sysroot)}
toolchain=$(realpath "$toolchain")
[ -x "$toolchain/bin/cargo" ] || fail "$toolchain has no bin/cargo: give --toolchain the folder of a whole toolchain"
root=$(realpath -m "$root")

# One root is used again and again; an unfinished one is made anew.
if [ ! -e "$root/.made" ]; then
  [ ! -e "$root" ] || [ -e "$root/.unfinished" ] || fail "$root is there and no root of this script: give another --root"
  rm -rf --one-file-system "$root"
  mkdir -p "$root"
  touch "$root/.unfinished"
  say "making Debian $suite, variant minbase, in $root"
  debootstrap --variant=minbase "$suite" "$root" >"$root.log" 2>&1 || fail "debootstrap failed: see $root.log"
  say "installing README.md's prerequisites: build-essential, python3-pip"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  unshare --mount --pid --fork chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive \
    sh -ec 'mount -t proc proc /proc
            apt-get update
            apt-get install -y --no-install-recommends build-essential python3-pip
            apt-get clean' >>"$root.log" 2>&1 || fail "installing failed: see $root.log"
  mv "$root/.unfinished" "$root/.made"
fi

cp /etc/resolv.conf "$root/etc/resolv.conf"
[ -z "$ca" ] || cp "$ca" "$root/etc/ssl/certs/ca-certificates.crt"
clone=$root/srv/twotower
commit=$(git -C "$repository" rev-parse --short HEAD)
# A clone that is there is brought to the commit, so that cargo builds only what has changed.
if [ -d "$clone/.git" ]; then
  git -C "$clone" fetch --quiet "$repository" HEAD
  git -C "$clone" reset --quiet --hard FETCH_HEAD
  git -C "$clone" clean --quiet -ffdx --exclude=/target
else
  git clone --quiet --no-hardlinks "$repository" "$clone"
fi
mkdir -p "$root/opt/rust" "$root/root/.cargo" "$clone/target"
say "commit $commit in Debian $(cat "$root/etc/debian_version"), $(unshare --root="$root" sh -c 'ls /usr/bin /usr/sbin | wc -l') programs, $("$toolchain/bin/rustc" --version)"

# In a mount name space and a process name space of its own: the root in place of the host's, and nothing of the host
# but the folders named. A `chroot` would not do, since the kernel gives no user name spaces within one, and tests of
# full disks take them.
export ROOT=$root TOOLCHAIN=$toolchain CARGO_FOLDER=$cargo_home TARGET_FOLDER=$target
exec unshare --mount --pid --fork --kill-child bash -euo pipefail -c '
  mount --make-rprivate /
  mount --bind "$ROOT" "$ROOT"
  mount -t proc proc "$ROOT/proc"
  mount -t tmpfs -o mode=755 dev "$ROOT/dev"
  mkdir "$ROOT/dev/pts" "$ROOT/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$ROOT/dev/pts"
  mount -t tmpfs shm "$ROOT/dev/shm"
  for device in null zero full random urandom tty; do
    touch "$ROOT/dev/$device"
    mount --bind "/dev/$device" "$ROOT/dev/$device"
  done
  ln -s pts/ptmx "$ROOT/dev/ptmx"
  ln -s /proc/self/fd "$ROOT/dev/fd"
  ln -s /proc/self/fd/0 "$ROOT/dev/stdin"
  ln -s /proc/self/fd/1 "$ROOT/dev/stdout"
  ln -s /proc/self/fd/2 "$ROOT/dev/stderr"
  mount --bind "$TOOLCHAIN" "$ROOT/opt/rust"
  mount -o remount,bind,ro "$ROOT/opt/rust"
  [ -z "$CARGO_FOLDER" ] || mount --bind "$CARGO_FOLDER" "$ROOT/root/.cargo"
  [ -z "$TARGET_FOLDER" ] || mount --bind "$TARGET_FOLDER" "$ROOT/srv/twotower/target"
  cd "$ROOT"
  pivot_root . mnt
  exec chroot . /usr/bin/env -i PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb \
    bash -euo pipefail -c "
      umount -l /mnt
      cd /srv/twotower
      if [ \$# -gt 0 ]; then exec \"\$@\"; fi
      set -x
      scripts/demo.sh demo --users 200000
      scripts/test.sh
    " bash "$@"
' bash "$@"
