# shellcheck shell=bash
# Shared by the scripts beside it: words on the terminal, and which Rust toolchain to use.
# Sourced, not run. Installs nothing.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
rust_minimum=1.90

say() { printf '%s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

# version_at_least HAVE WANT
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# The version that cargo says of itself, or nothing.
cargo_version() { cargo --version 2>/dev/null | cut -d' ' -f2; }
cargo_is_new_enough() {
    local version
    version=$(cargo_version) && [ -n "$version" ] && version_at_least "$version" "$rust_minimum"
}

# Puts rustup's directory and the project's own tools on PATH, and leaves an old default toolchain
# aside when rustup has a newer one.
use_toolchain() {
    export PATH="$root/target/tools/bin:$PATH"
    if [ -d "${CARGO_HOME:-${HOME:-}/.cargo}/bin" ]; then
        export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    fi
    if has rustup && ! cargo_is_new_enough; then
        local version
        version=$(RUSTUP_TOOLCHAIN=stable cargo_version || true)
        if [ -n "$version" ] && version_at_least "$version" "$rust_minimum"; then
            export RUSTUP_TOOLCHAIN=stable
        fi
    fi
}
