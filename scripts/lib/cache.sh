# shellcheck shell=bash
# Where scripts/setup puts what it fetched. Sourced.

# shellcheck disable=SC2034  # used by those who source this
cache=${CONTAINERD_SHIM_RUST_CACHE:-${XDG_CACHE_HOME:-/var/cache}/containerd-shim-rust}
