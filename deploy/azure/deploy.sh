#!/usr/bin/env bash
# Brings the service to Azure Container Instances. Run it again after any change: what is there already is kept.
#
#   deploy.sh              everything
#   deploy.sh render DIR   writes what would be deployed to DIR/group.yaml, with a placeholder for the storage account's key, and calls nobody
#
# docs/deploy/azure.md says what the variables below mean, and what must be there before.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

required=(RESOURCE_GROUP LOCATION STORAGE_ACCOUNT IMAGE PUBLIC_URL ISSUER BASE_ROLE_ARN AWS_AUDIENCE ACCOUNTS CERTIFICATE KEY SEALING_KEY JOURNAL_KEY)
if [[ -n ${SUBNET_ID:-} ]]; then required+=(SUBNET_ID); else required+=(DNS_LABEL); fi
missing=()
for name in "${required[@]}"; do
  [[ -n ${!name:-} ]] || missing+=("$name")
done
if ((${#missing[@]})); then
  echo "deploy.sh: set ${missing[*]}; docs/deploy/azure.md says what they are" >&2
  exit 2
fi
: "${TARGET_GROUPS:=[]}"

refuse() {
  echo "deploy.sh: $1" >&2
  exit 2
}
[[ $IMAGE == *@sha256:* ]] || refuse "IMAGE must name the image by digest (…@sha256:…)"
[[ $PUBLIC_URL == https://*/* ]] || refuse "PUBLIC_URL must be an https URL with a path, such as https://whitelist.example.com/mcp"
[[ $BASE_ROLE_ARN == arn:aws*:iam::*:role/* ]] || refuse "BASE_ROLE_ARN must be the ARN of the base role"
for name in "${required[@]}" TARGET_GROUPS; do
  [[ ${!name} != *[\'$'\n']* ]] || refuse "$name must have neither a quotation mark (') nor a line feed"
done
for name in CERTIFICATE KEY SEALING_KEY JOURNAL_KEY; do
  [[ -s ${!name} ]] || refuse "$name must name a file, and ${!name} is none, or is empty"
done

if [[ -n ${SUBNET_ID:-} ]]; then
  subnets="[{ id: '$SUBNET_ID' }]"
  address="{ type: Private, ports: [{ port: 443, protocol: TCP }] }"
else
  subnets="[]"
  address="{ type: Public, dnsNameLabel: '$DNS_LABEL', ports: [{ port: 443, protocol: TCP }] }"
fi

render() {
  local text value name
  text=$(<"$here/group.yaml")
  text=${text//"'@IP_ADDRESS@'"/"$address"}
  text=${text//"'@SUBNET_IDS@'"/"$subnets"}
  for name in LOCATION IMAGE PUBLIC_URL ISSUER BASE_ROLE_ARN AWS_AUDIENCE ACCOUNTS STORAGE_ACCOUNT IDENTITY_ID CLIENT_ID; do
    value=${!name}
    text=${text//"@$name@"/"$value"}
  done
  for name in CERTIFICATE KEY SEALING_KEY JOURNAL_KEY; do
    value=$(base64 --wrap 0 < "${!name}")
    text=${text//"@SECRET_$name@"/"$value"}
  done
  text=${text//"@SECRET_STORAGE_KEY@"/"$STORAGE_KEY"}
  text=${text//"@GROUPS@"/"$TARGET_GROUPS"}
  text=${text//"@REGISTRY@"/"${IMAGE%%/*}"}
  printf '%s\n' "$text"
}

umask 077
if [[ ${1:-} == render ]]; then
  IDENTITY_ID=/subscriptions/SUBSCRIPTION/resourceGroups/$RESOURCE_GROUP/providers/Microsoft.ManagedIdentity/userAssignedIdentities/whitelistmcp
  CLIENT_ID=00000000-0000-4000-8000-000000000000
  STORAGE_KEY=placeholder
  render > "${2:?deploy.sh render DIR}/group.yaml"
  exit
fi

there() { az "$@" --output none >/dev/null 2>&1; }

there group show --name "$RESOURCE_GROUP" || az group create --name "$RESOURCE_GROUP" --location "$LOCATION" --output none

# Who it is. The base role in AWS believes this identity's tokens, and no AWS key exists.
there identity show --resource-group "$RESOURCE_GROUP" --name whitelistmcp ||
  az identity create --resource-group "$RESOURCE_GROUP" --name whitelistmcp --location "$LOCATION" --output none
# shellcheck disable=SC2034  # render reads it by its name
IDENTITY_ID=$(az identity show --resource-group "$RESOURCE_GROUP" --name whitelistmcp --query id --output tsv)
# shellcheck disable=SC2034  # as well
CLIENT_ID=$(az identity show --resource-group "$RESOURCE_GROUP" --name whitelistmcp --query clientId --output tsv)

# The journal's volume outlives the group of containers.
there storage account show --resource-group "$RESOURCE_GROUP" --name "$STORAGE_ACCOUNT" ||
  az storage account create --resource-group "$RESOURCE_GROUP" --name "$STORAGE_ACCOUNT" --location "$LOCATION" --sku Standard_ZRS \
    --kind StorageV2 --min-tls-version TLS1_2 --https-only true --allow-blob-public-access false --output none
there storage share-rm show --resource-group "$RESOURCE_GROUP" --storage-account "$STORAGE_ACCOUNT" --name whitelistmcp ||
  az storage share-rm create --resource-group "$RESOURCE_GROUP" --storage-account "$STORAGE_ACCOUNT" --name whitelistmcp --quota 100 --output none
az storage account file-service-properties update --resource-group "$RESOURCE_GROUP" --account-name "$STORAGE_ACCOUNT" \
  --enable-delete-retention true --delete-retention-days 90 --output none
STORAGE_KEY=$(az storage account keys list --resource-group "$RESOURCE_GROUP" --account-name "$STORAGE_ACCOUNT" --query '[0].value' --output tsv)

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
render > "$rendered/group.yaml"

# Two groups on one journal must not be, so the one that is there ends first.
if there container show --resource-group "$RESOURCE_GROUP" --name whitelistmcp; then
  az container stop --resource-group "$RESOURCE_GROUP" --name whitelistmcp --output none
  az container delete --resource-group "$RESOURCE_GROUP" --name whitelistmcp --yes --output none
fi
az container create --resource-group "$RESOURCE_GROUP" --file "$rendered/group.yaml" --output none
echo "deployed: $PUBLIC_URL"
