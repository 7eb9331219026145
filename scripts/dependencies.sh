#!/usr/bin/env bash
# The dependency tree keeps to one TLS stack (rustls 0.23) with one provider (aws-lc-rs) over one HTTP stack (hyper 1).
set -euo pipefail
tree=$(cargo tree --locked --edges normal,build --prefix none --format '{p}' | sort -u)
wrong=$(grep -E '^(ring|openssl|openssl-sys|native-tls|webpki|reqwest|hyper-tls) v|^rustls v0\.(1|20|21|22|24)|^hyper v0\.|^h2 v0\.3|^http v0\.|^axum v0\.[0-7]\.' <<<"$tree" || true)
if [[ -n $wrong ]]; then
  echo "these must not be in the tree:" >&2
  echo "$wrong" >&2
  exit 1
fi
grep -E '^(rustls|aws-lc-rs|hyper|tonic|axum) v' <<<"$tree"
