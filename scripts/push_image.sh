#!/usr/bin/env bash
# Pushes the images of both architectures, as the build has handed them on, and one index over them. Prints lines for $GITHUB_OUTPUT.
#   push_image.sh DIRECTORY REPOSITORY TAG
set -euo pipefail

directory=$1 repository=$2 tag=$3

indexed=()
for architecture in amd64 arm64; do
  written=$(mktemp)
  skopeo copy --quiet --digestfile "$written" "docker-archive:$directory/image-$architecture/image.tar" "docker://$repository:$tag-$architecture" >&2
  digest=$(<"$written")
  rm "$written"
  indexed+=("$repository@$digest")
  echo "digest-$architecture=$digest"
done
docker buildx imagetools create --tag "$repository:$tag" "${indexed[@]}" >&2
digest=$(docker buildx imagetools inspect "$repository:$tag" --format '{{.Manifest.Digest}}')
if [[ ! $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
  echo "push_image.sh: the registry names no digest: $digest" >&2
  exit 1
fi
echo "digest=$digest"
echo "image=$repository@$digest"
