#!/bin/sh
# Installs the Debian packages that building, running and testing need and that are missing. On another system it
# prints their names and goes on: CMake then says what it misses.
set -eu
packages="g++ cmake ninja-build pkg-config ccache libfmt-dev libspdlog-dev nlohmann-json3-dev libpcre2-dev \
libutf8proc-dev libsentencepiece-dev libdnnl-dev ocl-icd-opencl-dev libcli11-dev libcpp-httplib-dev libssl-dev libedit-dev \
prometheus-cpp-dev libgtest-dev libbenchmark-dev"
[ "${1:-}" = test ] && packages="$packages clang libclang-rt-14-dev"

if ! command -v dpkg-query >/dev/null 2>&1; then
  echo "not a Debian system; these packages are needed: $packages" >&2
  exit 0
fi
missing=""
for package in $packages; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
echo "installing:$missing"
$sudo apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing
