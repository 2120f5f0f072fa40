#!/bin/sh
# Puts ONNX Runtime's shared library where twotower looks for it, and prints its path on the last line.
#
#   scripts/onnxruntime.sh
#
# In this order:
#   1. ORT_DYLIB_PATH or the user's cache folder already has one that is new enough: nothing to do;
#   2. the system has one that is new enough: it is linked into the cache folder;
#   3. the Python wheel of a pinned version is downloaded through pip, checked, and the library
#      in it is copied into the cache folder. Any Python 3.8 or newer will do: the wheel is chosen
#      for the machine, not for the interpreter, and nothing of it is installed.
#
# The cache folder is ${XDG_CACHE_HOME:-$HOME/.cache}/twotower/onnxruntime.
# TWOTOWER_ORT_SOURCE=system or =wheel skips the other steps.
set -eu

MIN_MINOR=24
VERSION=1.31.1
# SHA-256 of onnxruntime/capi/libonnxruntime.so.$VERSION in the wheels; the same in every cpXY wheel of a platform.
SHA256_x86_64=fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3
SHA256_aarch64=8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467

say() { echo "onnxruntime.sh: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

# Succeeds for versions 1.MIN_MINOR and newer.
new_enough() {
    case $1 in 1.*) ;; *) return 1 ;; esac
    minor=${1#1.}
    minor=${minor%%.*}
    case $minor in '' | *[!0-9]*) return 1 ;; esac
    [ "$minor" -ge "$MIN_MINOR" ]
}

# Prints the version of a library: what it says itself where Python can ask, else what its file name says.
version_of() {
    if command -v python3 >/dev/null 2>&1; then
        python3 - "$1" 2>/dev/null <<'EOF' || echo unknown
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.OrtGetApiBase.restype = ctypes.POINTER(ctypes.c_void_p * 2)
get_version = ctypes.CFUNCTYPE(ctypes.c_char_p)(library.OrtGetApiBase().contents[1])
print(get_version().decode())
EOF
    else
        name=$(basename "$(readlink -f "$1")")
        echo "${name#libonnxruntime.so.}"
    fi
}

# Reports an existing library and ends the script when it is new enough.
take_existing() {
    version=$(version_of "$1")
    if new_enough "$version"; then
        say "found ONNX Runtime $version$2"
        echo "$1"
        exit 0
    fi
    say "$1: version $version, needs 1.$MIN_MINOR or newer"
}

if [ -n "${ORT_DYLIB_PATH:-}" ]; then
    [ -f "$ORT_DYLIB_PATH" ] || fail "ORT_DYLIB_PATH is $ORT_DYLIB_PATH, which is no file: correct it, or unset it and run this again"
    take_existing "$ORT_DYLIB_PATH" " (ORT_DYLIB_PATH)"
    fail "twotower uses ORT_DYLIB_PATH and nothing else while it is set: point it to a newer library, or unset it and run this again"
fi

[ -n "${XDG_CACHE_HOME:-}${HOME:-}" ] || fail "neither XDG_CACHE_HOME nor HOME is set: set one, it holds the cache folder"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/twotower/onnxruntime
target=$cache/libonnxruntime.so
source=${TWOTOWER_ORT_SOURCE:-any}

if [ "$source" = any ] && [ -f "$target" ]; then
    take_existing "$target" " in the cache folder"
fi

mkdir -p "$cache" || fail "cannot make $cache: set XDG_CACHE_HOME to a folder you can write"
temp=$(mktemp -d "$cache/.get-XXXXXX") || fail "cannot write to $cache: set XDG_CACHE_HOME to a folder you can write"
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' HUP INT TERM

if [ "$source" != wheel ]; then
    system=$( (PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null || true) | sed -n 's/.*libonnxruntime\.so.* => //p')
    for file in $system /usr/local/lib/libonnxruntime.so*; do
        [ -f "$file" ] || continue
        version=$(version_of "$file")
        if new_enough "$version"; then
            ln -s "$(readlink -f "$file")" "$temp/libonnxruntime.so"
            mv -f "$temp/libonnxruntime.so" "$target"
            say "linked the system's ONNX Runtime $version, $file"
            echo "$target"
            exit 0
        fi
        say "$file: version $version, needs 1.$MIN_MINOR or newer"
    done
    [ "$source" = any ] || fail "the system has no ONNX Runtime 1.$MIN_MINOR or newer (ldconfig -p, /usr/local/lib)"
fi

machine=$(uname -m)
case $machine in
    x86_64) sha256=$SHA256_x86_64 ;;
    aarch64 | arm64)
        machine=aarch64
        sha256=$SHA256_aarch64
        ;;
    *) fail "no wheel is known for $machine: install ONNX Runtime 1.$MIN_MINOR or newer and set ORT_DYLIB_PATH to its libonnxruntime.so, or use --engine native" ;;
esac
[ "$(uname -s)" = Linux ] || fail "no wheel is known for $(uname -s): set ORT_DYLIB_PATH to ONNX Runtime's library, or use --engine native"

command -v python3 >/dev/null 2>&1 || fail "python3 is needed to fetch the wheel: apt-get install -y python3 python3-pip, and run this again"
if python3 -m pip --version >/dev/null 2>&1; then
    pip="python3 -m pip"
elif command -v pip3 >/dev/null 2>&1; then
    pip=pip3
elif python3 -m venv "$temp/venv" >/dev/null 2>&1; then
    pip="$temp/venv/bin/python -m pip"
else
    fail "pip is needed to fetch the wheel: apt-get install -y python3-pip (or python3-venv), and run this again"
fi

say "fetching the wheel onnxruntime $VERSION for $machine through pip"
$pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
    --python-version 3.12 --abi cp312 --platform "manylinux_2_28_$machine" \
    --dest "$temp" "onnxruntime==$VERSION" >&2 ||
    fail "pip could not fetch onnxruntime $VERSION (its message is above): check the network and pip's index, or install ONNX Runtime 1.$MIN_MINOR or newer and set ORT_DYLIB_PATH, or use --engine native"

python3 - "$temp" "$VERSION" "$sha256" <<'EOF' || fail "the wheel does not hold the library expected; nothing was installed"
import glob, hashlib, os, shutil, sys, zipfile
folder, version, expected = sys.argv[1:]
(wheel,) = glob.glob(os.path.join(folder, "*.whl"))
library = os.path.join(folder, "libonnxruntime.so")
with zipfile.ZipFile(wheel) as archive:
    with archive.open("onnxruntime/capi/libonnxruntime.so." + version) as source, open(library, "wb") as to:
        shutil.copyfileobj(source, to)
        to.flush()
        os.fsync(to.fileno())
    for notice in "LICENSE", "ThirdPartyNotices.txt":
        with archive.open("onnxruntime/" + notice) as source, open(os.path.join(folder, notice), "wb") as to:
            shutil.copyfileobj(source, to)
with open(library, "rb") as file:
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
if digest.hexdigest() != expected:
    sys.exit("%s: SHA-256 of the library is %s, expected %s" % (os.path.basename(wheel), digest.hexdigest(), expected))
os.chmod(library, 0o755)
EOF
mv -f "$temp/LICENSE" "$temp/ThirdPartyNotices.txt" "$cache"
mv -f "$temp/libonnxruntime.so" "$target.$VERSION"
ln -s "libonnxruntime.so.$VERSION" "$temp/libonnxruntime.so"
mv -f "$temp/libonnxruntime.so" "$target"
say "installed ONNX Runtime $VERSION (SHA-256 checked)"
echo "$target"
