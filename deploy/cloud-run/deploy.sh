#!/usr/bin/env bash
# Brings the edge to Cloud Run, and the core to a virtual machine beside it. Run it again after any change: what is there already is kept.
#
#   deploy.sh setup        everything: who they are and may read what, their address, disk and firewall, and then as below. For a person
#   deploy.sh              the core and the edge anew, in what `setup` has made; it gives nobody any right. For a workflow as well
#   deploy.sh render DIR   writes what would be deployed to DIR, and calls nobody
#
# docs/deploy/cloud-run.md says what the variables below mean, and what must be there before.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

required=(PROJECT REGION ZONE NETWORK SUBNET SUBNET_RANGE CORE_ADDRESS IMAGE PUBLIC_URL ISSUER BASE_ROLE_ARN AWS_AUDIENCE ACCOUNTS)
missing=()
for name in "${required[@]}"; do
  [[ -n ${!name:-} ]] || missing+=("$name")
done
if ((${#missing[@]})); then
  echo "deploy.sh: set ${missing[*]}; docs/deploy/cloud-run.md says what they are" >&2
  exit 2
fi
: "${TARGET_GROUPS:=[]}" "${INGRESS:=all}" "${TRUSTED_PROXIES:=[\"169.254.0.0/16\"]}"

refuse() {
  echo "deploy.sh: $1" >&2
  exit 2
}
[[ $IMAGE == *@sha256:* ]] || refuse "IMAGE must name the image by digest (…@sha256:…): edges and core run the same program"
[[ $PUBLIC_URL == https://*/* ]] || refuse "PUBLIC_URL must be an https URL with a path, such as https://whitelist.example.com/mcp"
[[ $BASE_ROLE_ARN == arn:aws*:iam::*:role/* ]] || refuse "BASE_ROLE_ARN must be the ARN of the base role"
for name in "${required[@]}" TARGET_GROUPS TRUSTED_PROXIES INGRESS; do
  [[ ${!name} != *[\'$'\n']* ]] || refuse "$name must have neither a quotation mark (') nor a line feed"
done

render() {
  local text value name
  text=$(<"$1")
  for name in PROJECT NETWORK SUBNET CORE_ADDRESS IMAGE PUBLIC_URL ISSUER BASE_ROLE_ARN AWS_AUDIENCE ACCOUNTS INGRESS TRUSTED_PROXIES; do
    value=${!name}
    text=${text//"@$name@"/"$value"}
  done
  text=${text//"@GROUPS@"/"$TARGET_GROUPS"}
  text=${text//"@REGISTRY@"/"${IMAGE%%/*}"}
  printf '%s\n' "$text"
}

case ${1:-} in
  '' | setup | render) ;;
  *) refuse "there is no '$1': deploy.sh, deploy.sh setup, or deploy.sh render DIR" ;;
esac
if [[ ${1:-} == render ]]; then
  render "$here/service.yaml" > "${2:?deploy.sh render DIR}/service.yaml"
  render "$here/core.yaml" > "$2/core.yaml"
  exit
fi

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
render "$here/service.yaml" > "$rendered/service.yaml"
render "$here/core.yaml" > "$rendered/core.yaml"

export CLOUDSDK_CORE_PROJECT=$PROJECT CLOUDSDK_CORE_DISABLE_PROMPTS=1
there() { gcloud "$@" --format=none >/dev/null 2>&1; }

disk() { gcloud compute disks describe whitelistmcp-journal --zone "$ZONE" --format "value($1)"; }

if [[ ${1:-} == setup ]]; then
  # Who they are: two accounts, neither of which may do anything in this project but read its own secrets.
  for part in edge core; do
    there iam service-accounts describe "whitelistmcp-$part@$PROJECT.iam.gserviceaccount.com" ||
      gcloud iam service-accounts create "whitelistmcp-$part" --display-name "whitelistmcp $part"
  done
  reads() {
    gcloud secrets add-iam-policy-binding "$2" --role roles/secretmanager.secretAccessor \
      --member "serviceAccount:whitelistmcp-$1@$PROJECT.iam.gserviceaccount.com" --format=none
  }
  for secret in edge-certificate edge-key ca sealing-key; do reads edge "whitelistmcp-$secret"; done
  for secret in core-certificate core-key ca journal-key; do reads core "whitelistmcp-$secret"; done
  gcloud projects add-iam-policy-binding "$PROJECT" --role roles/logging.logWriter --condition None --format=none \
    --member "serviceAccount:whitelistmcp-core@$PROJECT.iam.gserviceaccount.com"
  gcloud projects add-iam-policy-binding "$PROJECT" --role roles/artifactregistry.reader --condition None --format=none \
    --member "serviceAccount:whitelistmcp-core@$PROJECT.iam.gserviceaccount.com"

  # The core: an address that stays, a disk that stays, and a machine that may go.
  there compute addresses describe whitelistmcp-core --region "$REGION" ||
    gcloud compute addresses create whitelistmcp-core --region "$REGION" --subnet "$SUBNET" --addresses "$CORE_ADDRESS"
  there compute firewall-rules describe whitelistmcp-core ||
    gcloud compute firewall-rules create whitelistmcp-core --network "$NETWORK" --direction INGRESS --allow tcp:8443 \
      --source-ranges "$SUBNET_RANGE" --target-service-accounts "whitelistmcp-core@$PROJECT.iam.gserviceaccount.com"
  there compute resource-policies describe whitelistmcp-journal --region "$REGION" ||
    gcloud compute resource-policies create snapshot-schedule whitelistmcp-journal --region "$REGION" \
      --daily-schedule --start-time 03:00 --max-retention-days 30 --on-source-disk-delete keep-auto-snapshots
  # The disk's label says that it has no file system yet, over a run of this that ends early. Only then may the machine make one.
  there compute disks describe whitelistmcp-journal --zone "$ZONE" ||
    gcloud compute disks create whitelistmcp-journal --zone "$ZONE" --type pd-balanced --size 20GB --labels whitelistmcp=unformatted
  [[ $(disk resourcePolicies) == *whitelistmcp-journal* ]] ||
    gcloud compute disks add-resource-policies whitelistmcp-journal --zone "$ZONE" --resource-policies whitelistmcp-journal
elif ! there compute disks describe whitelistmcp-journal --zone "$ZONE"; then
  refuse "the journal's disk is not there: somebody who may give rights runs deploy.sh setup first"
fi

metadata=enable-guest-attributes=TRUE
label=$(disk labels.whitelistmcp)
[[ $label != unformatted ]] || metadata+=,journal-disk=new
if there compute instances describe whitelistmcp-core --zone "$ZONE"; then
  # In order: what runs is finished, and the disk has one machine at a time.
  gcloud compute instances stop whitelistmcp-core --zone "$ZONE"
  gcloud compute instances remove-metadata whitelistmcp-core --zone "$ZONE" --keys journal-disk
  gcloud compute instances add-metadata whitelistmcp-core --zone "$ZONE" --metadata "$metadata" --metadata-from-file "user-data=$rendered/core.yaml"
  gcloud compute instances start whitelistmcp-core --zone "$ZONE"
else
  gcloud compute instances create whitelistmcp-core --zone "$ZONE" --machine-type e2-small \
    --image-family cos-stable --image-project cos-cloud --shielded-secure-boot \
    --subnet "$SUBNET" --private-network-ip "$CORE_ADDRESS" --no-address \
    --service-account "whitelistmcp-core@$PROJECT.iam.gserviceaccount.com" --scopes cloud-platform \
    --disk name=whitelistmcp-journal,device-name=journal,mode=rw,boot=no,auto-delete=no \
    --metadata "google-logging-enabled=true,block-project-ssh-keys=true,$metadata" --metadata-from-file "user-data=$rendered/core.yaml"
fi
if [[ $label == unformatted ]]; then
  for ((tries = 60; ; tries--)); do
    # The machine's word for it, which it has when it has formatted the disk.
    [[ $(gcloud compute instances get-guest-attributes whitelistmcp-core --zone "$ZONE" --query-path whitelistmcp/journal --format 'value(value)' 2>/dev/null) != formatted ]] || break
    ((tries > 1)) || refuse "the core's machine has not formatted its new disk in five minutes; look at its serial port, and run this again"
    sleep 5
  done
  gcloud compute instances remove-metadata whitelistmcp-core --zone "$ZONE" --keys journal-disk
  gcloud compute disks remove-labels whitelistmcp-journal --zone "$ZONE" --labels whitelistmcp
fi

gcloud run services replace "$rendered/service.yaml" --region "$REGION"
if [[ ${1:-} == setup ]]; then
  # Everybody may call the edge: Google would ask for tokens of its own, and the edge asks for those of your provider.
  gcloud run services add-iam-policy-binding whitelistmcp --region "$REGION" --member allUsers --role roles/run.invoker --format=none
fi
echo "deployed: $PUBLIC_URL"
