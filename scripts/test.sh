#!/usr/bin/env bash
# Every check, the fast ones first. Stops at the first that fails, and says which it was.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
  local name=$1 begun=$SECONDS
  shift
  printf '\n=== %s\n' "$name"
  if ! "$@"; then
    printf '\nFAILED: %s\n' "$name" >&2
    exit 1
  fi
  printf '=== %s: %d s\n' "$name" $((SECONDS - begun))
}

needs() {
  local missing=()
  for tool in "$@"; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  if ((${#missing[@]})); then
    echo "missing: ${missing[*]}; \`make tools\` installs what Debian has" >&2
    return 1
  fi
}

clippy() { cargo clippy --locked --all-targets -- --deny warnings; }
docs() { RUSTDOCFLAGS='--deny warnings' cargo doc --locked --no-deps --document-private-items; }
protos() { .tools/node/node_modules/.bin/buf lint proto; }
scripts() { python3 -m compileall -q examples/demo scripts && bash -n scripts/*.sh .ci/run; }

step 'tools of the machine' needs cargo python3 node npm git openssl redis-server chromium chromedriver promtool unshare chattr dbus-run-session dbus-send gnome-keyring-daemon secret-tool
step 'formatting' cargo fmt --check
step 'scripts parse' scripts
step 'dependencies: one TLS stack, one provider' bash scripts/dependencies.sh
step 'tools of the checkout' python3 examples/demo/tools/install.py
step 'protos' protos
step 'build' cargo build --locked --bins --tests
step 'lints' clippy
step 'documentation' docs
step 'tests' cargo test --locked --lib --bins --test it
step 'the demo' python3 examples/demo/demo.py
printf '\nAll checks passed in %d s.\n' "$SECONDS"
