#!/usr/bin/env bash
# Installs from Debian what the tests need and this machine lacks; needs root only if something is missing.
set -euo pipefail

# Which package has each command. Node comes with npm in some packages and without in Debian's, and the two do not mix.
declare -A package=(
  [cc]=build-essential [git]=git [make]=make [node]=nodejs [npm]=npm [openssl]=openssl [python3]=python3
  [nginx]=nginx [promtool]=prometheus [redis-server]=redis-server [chromium]=chromium [chromedriver]=chromium-driver
  [buildah]=buildah [docker-compose]=docker-compose [ip]=iproute2 [redis-cli]=redis-tools [unzip]=unzip
  [go]=golang-go [gofmt]=golang-go [protoc]=protobuf-compiler [protoc-gen-go]=protoc-gen-go-1-3
  [dbus-run-session]=dbus-daemon [dbus-send]=dbus-bin [gnome-keyring-daemon]=gnome-keyring [secret-tool]=libsecret-tools
)
missing=()
for command in "${!package[@]}"; do
  command -v "$command" >/dev/null || missing+=("${package[$command]}")
done
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
[[ -d /usr/share/gocode/src/google.golang.org/grpc ]] || missing+=(golang-google-grpc-dev)
if ((${#missing[@]} == 0)); then
  echo 'nothing is missing'
  exit 0
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet --quiet
apt-get install --yes --quiet --no-install-recommends "${missing[@]}"
