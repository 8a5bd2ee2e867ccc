#!/usr/bin/env bash
# A run on Google Kubernetes Engine as a JobSet, which starts it again by itself; `--help` tells how.
set -euo pipefail

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

JOBSET=https://github.com/kubernetes-sigs/jobset/releases/download/v0.8.0/manifests.yaml

usage() {
  printf '%s\n' \
    "usage: bash launch/gke.sh SETTINGS COMMAND [--dry-run]" \
    "" \
    "  create          a cluster, a node pool for each slice, the JobSet controller" \
    "  image           build launch/Dockerfile and push it to IMAGE" \
    "  manifest        print the JobSet" \
    "  run             apply it: training starts, and again after each preemption" \
    "  logs [HOST]     follow the log of one host (0), or of \`all\`" \
    "  status          the JobSet and its pods" \
    "  stop            remove the JobSet: the run saves and ends" \
    "  fetch FOLDER    copy metrics, samples, report and crash reports from the bucket" \
    "  delete          give the node pools and the cluster back: until then they cost money" \
    "" \
    "SETTINGS is a file like launch/example.conf. --dry-run prints the commands instead."
}

create() {
  local slice spot=()
  case "$PROVISIONING" in
    spot) spot=(--spot) ;;
    reserved) spot=(--reservation-affinity=any) ;;
  esac
  call gcloud container clusters create "$CLUSTER" "${WHERE[@]}" --release-channel=rapid \
    "--workload-pool=$PROJECT.svc.id.goog" --scopes=storage-full
  for ((slice = 0; slice < SLICES; slice++)); do
    # shellcheck disable=SC2153 # read_settings sets it.
    call gcloud container node-pools create "$NAME-$slice" "${WHERE[@]}" "--cluster=$CLUSTER" \
      "--machine-type=$MACHINE" "--tpu-topology=$TOPOLOGY" "--num-nodes=$HOSTS" "${spot[@]}" \
      --scopes=storage-full
  done
  credentials
  call kubectl apply --server-side --filename="$JOBSET"
}

credentials() {
  call gcloud container clusters get-credentials "$CLUSTER" "${WHERE[@]}"
}

image() {
  call docker build --file="$ROOT/launch/Dockerfile" --tag="$IMAGE" "$ROOT"
  call docker push "$IMAGE"
}

# The words are JSON, which is YAML too; settings hold no character that either would read.
manifest() {
  local text name words flags args
  read -ra flags <<<"$FLAGS"
  words=(train "--config=$CONFIG" "--workdir=$WORKDIR" "${flags[@]}")
  printf -v args '"%s", ' "${words[@]}"
  text="$(cat -- "$ROOT/launch/jobset.yaml")"
  for name in NAME SLICES HOSTS TPU_LABEL TOPOLOGY IMAGE CHIPS_PER_HOST; do
    text="${text//@$name@/${!name}}"
  done
  printf '%s\n' "${text//@ARGS@/[${args%, }]}"
}

run() {
  if [[ "$DRY_RUN" == yes ]]; then
    echo "bash launch/gke.sh $(quoted "$CONF") manifest | kubectl apply --filename=-"
  else
    manifest | kubectl apply --filename=-
  fi
}

logs() {
  local of="jobset.sigs.k8s.io/jobset-name=$NAME"
  if [[ "${1:-0}" != all ]]; then of+=",batch.kubernetes.io/job-completion-index=${1:-0}"; fi
  call kubectl logs --follow --prefix --max-log-requests=1000 --tail=50 "--selector=$of"
}

status() {
  call kubectl describe jobset "$NAME"
  call kubectl get pods "--selector=jobset.sigs.k8s.io/jobset-name=$NAME"
}

stop() {
  call kubectl delete jobset "$NAME"
}

fetch() {
  local part
  [[ -n "${1:-}" ]] || fail "fetch needs a folder: fetch results"
  call mkdir -p -- "$1"
  for part in config.json report.json metrics samples crashes; do
    call gcloud storage cp --recursive "$WORKDIR/$part" "$1" "--project=$PROJECT" ||
      say "$part is not there yet"
  done
}

delete() {
  local slice
  for ((slice = 0; slice < SLICES; slice++)); do
    call gcloud container node-pools delete "$NAME-$slice" "${WHERE[@]}" "--cluster=$CLUSTER" --quiet
  done
  call gcloud container clusters delete "$CLUSTER" "${WHERE[@]}" --quiet
}

main() {
  read_words "$@"
  need PROJECT ZONE NAME SLICES PROVISIONING CONFIG WORKDIR CLUSTER IMAGE MACHINE TOPOLOGY TPU_LABEL \
    HOSTS CHIPS_PER_HOST
  [[ "$NAME" =~ ^[a-z][a-z0-9-]*$ ]] || fail "$CONF: NAME=$NAME: small letters, digits and - only"
  WHERE=("--project=$PROJECT" "--zone=$ZONE")
  case "${WORDS[1]}" in
    create | image | manifest | run | logs | status | stop | fetch | delete) "${WORDS[@]:1}" ;;
    *) fail "${WORDS[1]} is no command; see --help" ;;
  esac
}

main "$@"
