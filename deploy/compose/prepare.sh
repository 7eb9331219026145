#!/bin/sh
# Makes the passwords that compose.yaml reads from files, in secrets/ beside it. What exists is left as it is.
#
# A container sees the file's own mode and owner and none of the directory it comes from: so each file is readable by all, in a directory that
# only its owner can enter.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets

write() {
  test -e "secrets/$1" || printf '%s\n' "$2" > "secrets/$1"
  chmod 0444 "secrets/$1"
}

write redis-password "$(openssl rand -hex 32)"
write redis.conf "requirepass $(cat secrets/redis-password)"
write grafana-password "$(openssl rand -hex 16)"
