#!/usr/bin/env bash
# Installs everything the build needs: Debian packages (packages.txt) and LibTorch (wheels.txt, into third_party/site).
# The second call does nothing, in a second. --cuda adds the GPU half; --phone only what pocketvlm-mobile needs; --aarch64 what
# building and running that for 64-bit ARM needs (aarch64-packages.txt, into third_party/aarch64).
set -euo pipefail
cd "$(dirname "$0")/.."

cuda=0 phone=0 aarch64=0
for argument in "$@"; do
  case "$argument" in
    --cuda) cuda=1 ;;
    --phone) phone=1 ;;
    --aarch64) aarch64=1 ;;
    *) echo "setup.sh: unknown option $argument (known: --aarch64, --cuda, --phone)" >&2; exit 1 ;;
  esac
done

# --- Debian packages
wanted=$(grep -v '^#' scripts/packages.txt)
[ "$aarch64" = 1 ] && wanted="$wanted g++-aarch64-linux-gnu qemu-user-static"
missing=""
for package in $wanted; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
  as_root=""
  [ "$(id -u)" = 0 ] || as_root="sudo -n"
  if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
    echo "setup.sh: these Debian packages are missing and this user may not install them:$missing" >&2
    echo "setup.sh: ask an administrator for: apt-get install$missing" >&2
    exit 1
  fi
  echo "setup.sh: installing Debian packages:$missing"
  $as_root apt-get update -qq
  # shellcheck disable=SC2086
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

# --- Libraries of 64-bit ARM: Debian's own packages with all they need, down to libc, from lists of their own, so that
# nothing about this machine's packages changes
unpack_aarch64() {
  local root=third_party/aarch64 wanted_stamp
  wanted_stamp=$(cat scripts/aarch64-packages.txt scripts/setup.sh | sha256sum | cut -d' ' -f1)
  [ -f "$root/.complete" ] && [ "$(cat "$root/.complete")" = "$wanted_stamp" ] && return 0
  echo "setup.sh: fetching libraries for 64-bit ARM"
  local work
  mkdir -p third_party
  work=$(mktemp -d "$PWD/third_party/aarch64.XXXXXX")
  # shellcheck disable=SC2064  # the folder's name now: the variable is gone when the trap runs
  trap "rm -rf '$work'" EXIT
  mkdir -p "$work/lists/partial" "$work/debs/partial" "$work/root"
  touch "$work/status"
  cat > "$work/apt.conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work";
Dir::Cache::archives "$work/debs";
Acquire::Languages "none";
END
  # Sources that have nothing for ARM are warnings here; what is missing shows in the next step.
  APT_CONFIG=$work/apt.conf apt-get update -qq >/dev/null 2>"$work/errors" || true
  # shellcheck disable=SC2046
  APT_CONFIG=$work/apt.conf apt-get install -y -qq --download-only $(grep -v '^#' scripts/aarch64-packages.txt) \
    >/dev/null 2>>"$work/errors" || {
    echo "setup.sh: the packages of scripts/aarch64-packages.txt could not be fetched:" >&2
    tail -5 "$work/errors" >&2
    exit 1
  }
  local deb link
  for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$work/root"; done
  # Links to absolute paths would lead out of the folder.
  find "$work/root" -lname '/*' | while read -r link; do
    ln -snf "$(realpath -m --relative-to="$(dirname "$link")" "$work/root$(readlink "$link")")" "$link"
  done
  rm -rf "$work/root/usr/share/doc" "$root"
  mv "$work/root" "$root"
  rm -rf "$work"
  trap - EXIT
  echo "$wanted_stamp" > "$root/.complete"
}

[ "$aarch64" = 1 ] && unpack_aarch64
{ [ "$phone" = 1 ] || [ "$aarch64" = 1 ]; } && exit 0

# --- LibTorch: the pinned wheels, checked by hash, unpacked beside each other as pip would
install_wheels() {  # list-file stamp-file patterns...
  local list=$1 stamp=third_party/site/.$(basename "$1").stamp
  shift
  local wanted_stamp
  # What is unpacked counts, too: the GPU half comes from the same list as the rest.
  wanted_stamp=$({ cat "$list" scripts/setup.sh; echo "$*"; } | sha256sum | cut -d' ' -f1)
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted_stamp" ] && return 0
  [ "$(uname -m)" = x86_64 ] || {
    echo "setup.sh: no pinned LibTorch for $(uname -m); build with -DCMAKE_PREFIX_PATH=<unzipped LibTorch>" >&2; exit 1; }
  mkdir -p third_party/site
  local wheels
  wheels=$(mktemp -d third_party/wheels.XXXXXX)
  # shellcheck disable=SC2064  # the folder's name now: the variable is gone when the trap runs
  trap "rm -rf '$wheels'" EXIT
  echo "setup.sh: fetching $(grep -c '==' "$list") wheels of $list"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    --implementation cp --python-version 3.11 --abi cp311 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux_2_18_x86_64 --platform manylinux2014_x86_64 -r "$list" -d "$wheels" || {
    echo "setup.sh: the wheels of $list could not be fetched (see above); call it again when the package index can be reached," \
      "or build with -DCMAKE_PREFIX_PATH=<unzipped LibTorch>" >&2
    exit 1
  }
  local wheel
  for wheel in "$wheels"/*.whl; do
    # A pattern that a wheel does not hold is no fault: the wheels have different parts.
    unzip -qo "$wheel" "$@" -d third_party/site 2>/dev/null || [ $? = 11 ]
  done
  rm -rf "$wheels"
  trap - EXIT
  echo "$wanted_stamp" > "$stamp"
}

if [ "$cuda" = 1 ]; then
  install_wheels scripts/wheels.txt 'torch/include/*' 'torch/lib/*.so*' 'nvidia/*'
  install_wheels scripts/wheels-cuda.txt 'nvidia/*'
elif [ ! -f third_party/site/torch/lib/libtorch_cuda.so ] || [ ! -f third_party/site/.wheels.txt.stamp ]; then
  install_wheels scripts/wheels.txt 'torch/include/*' torch/lib/libtorch_cpu.so torch/lib/libc10.so \
    'torch/lib/libgomp*' 'nvidia/cu13/lib/libcudart.so.13' 'nvidia/cu13/lib/libcupti.so.13'
fi
