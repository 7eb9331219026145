#!/usr/bin/env bash
# Loads an image from an archive and shows that it is what the pages say: no shell, nobody's root, a read-only root that suffices.
#   try_image.sh ARCHIVE IMAGE
set -euo pipefail

archive=$1 image=$2

docker load --quiet --input "$archive"

of() { docker image inspect --format "$1" "$image"; }
same() {
  if [[ $2 != "$3" ]]; then
    echo "$1 is $2, and should be $3" >&2
    exit 1
  fi
}
same 'the entry point' "$(of '{{json .Config.Entrypoint}}')" '["/usr/local/bin/whitelistmcp"]'
same 'the user' "$(of '{{.Config.User}}')" 65532:65532
same 'the health check' "$(of '{{json .Config.Healthcheck.Test}}')" '["CMD","/usr/local/bin/whitelistmcp","health"]'

confined=(--rm --read-only --cap-drop ALL --security-opt no-new-privileges --network none)
docker run "${confined[@]}" "$image" --version
if docker run "${confined[@]}" --entrypoint /bin/sh "$image" -c true 2>/dev/null; then
  echo 'there is a shell in it' >&2
  exit 1
fi
