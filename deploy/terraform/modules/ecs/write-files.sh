# shellcheck shell=sh
# Writes what ECS has put into this container's variables to the files that the service reads, for its user alone.
set -eu
umask 077
cd "${FILES:-/etc/whitelistmcp}"
mkdir -p certs
write() { printf '%s\n' "$2" > "$1"; }
write "certs/$SERVICE.pem" "$CERTIFICATE"
write "certs/$SERVICE.key" "$KEY"
write certs/ca.pem "$CA"
if [ -n "${SEALING_KEY:-}" ]; then write sealing.key "$SEALING_KEY"; fi
if [ -n "${SIGNING_KEY:-}" ]; then write journal.pem "$SIGNING_KEY"; fi
if [ -n "${REDIS_PASSWORD:-}" ]; then write redis-password "$REDIS_PASSWORD"; fi
if [ -n "${POLICY:-}" ]; then write policy.cedar "$POLICY"; fi
# FILE_1 at FILE_1_PATH, and so on.
number=1
while eval "path=\${FILE_${number}_PATH:-}" && [ -n "$path" ]; do
  eval "text=\${FILE_$number}"
  # shellcheck disable=SC2154  # by eval, above
  write "$path" "$text"
  number=$((number + 1))
done
# From the inside out: root without its usual rights cannot reach into what is no longer its own.
chown 65532:65532 certs/* ./* .
