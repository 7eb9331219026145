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

formatting() { cargo fmt --check && cargo fmt --check --manifest-path examples/clients/rust/Cargo.toml; }
clippy() { cargo clippy --locked --all-targets -- --deny warnings; }
docs() { RUSTDOCFLAGS='--deny warnings' cargo doc --locked --no-deps --document-private-items; }
protos() { .tools/node/node_modules/.bin/buf lint proto; }
scripts() { python3 -m compileall -q examples/demo examples/clients scripts tests/interop tests/conformance && bash -n scripts/*.sh .ci/run && sh -n tests/interop/clients/xdg-open; }
# A lock file of a package beside ours goes stale when ours changes its dependencies.
locks() {
  local lock
  for lock in $(git ls-files '*Cargo.lock'); do
    cargo metadata --locked --format-version 1 --manifest-path "${lock%.lock}.toml" >/dev/null || return 1
  done
}
fuzz_target() { cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir "$CARGO_TARGET_DIR"; }
rust_client() {
  local crate=(--manifest-path tests/interop/rust/Cargo.toml)
  cargo fmt --check "${crate[@]}" && cargo build --locked "${crate[@]}" --target-dir "$CARGO_TARGET_DIR/interop"
}

step 'tools of the machine' needs cargo python3 node npm git openssl redis-server chromium chromedriver promtool unshare chattr nginx dbus-run-session dbus-send gnome-keyring-daemon secret-tool buildah docker-compose ip redis-cli unzip go gofmt protoc protoc-gen-go
step 'formatting' formatting
step 'scripts parse' scripts
step 'dependencies: one TLS stack, one provider' bash scripts/dependencies.sh
step 'lock files are those of their packages' locks
step 'tools of the checkout' python3 examples/demo/tools/install.py
step 'protos' protos
step 'build' cargo build --locked --bins --tests
step 'lints' clippy
step 'documentation' docs
step 'the fuzz target compiles' fuzz_target
step 'tests' cargo test --locked --lib --bins --test it
step 'the demo' python3 examples/demo/demo.py
step 'checkers of deployments' python3 examples/demo/tools/install.py deploy checkov deploy-node
step 'deployments' python3 scripts/deploy_check.py
step 'clients of other makes, and the conformance suite' python3 examples/demo/tools/install.py interop interop-old interop-node
step 'conformance' python3 tests/conformance/run.py
step 'conformance of the bridge' python3 tests/conformance/client.py
step 'a client in Rust' rust_client
step 'interop' python3 tests/interop/run.py
step 'interop: resources, prompts, questions, news' python3 tests/interop/features.py
printf '\nAll checks passed in %d s.\n' "$SECONDS"
