#!/usr/bin/env bash
# A run on Cloud TPU VMs, one slice or several, from creating them to deleting them; `--help` tells.
set -euo pipefail

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

# Seconds between looks at a run or a request; tests set it.
POLL_SECONDS="${POLL_SECONDS:-60}"
# Looks that a host may go on after another has ended, before all are stopped.
PATIENCE=10
# A run that ends sooner counts as a failure.
QUICK_SECONDS=600
WORKER='bash babeldraw/launch/worker.sh'

usage() {
  printf '%s\n' \
    "usage: bash launch/tpu.sh SETTINGS COMMAND [--dry-run]" \
    "" \
    "  create          ask for the TPUs and wait until they are there" \
    "  setup           copy this repository to every host and install it there" \
    "  run             start training on every host; it outlives this connection" \
    "  keep            all of the above, and again after each preemption, until the run is done" \
    "  logs [WORKER]   follow the log of one host (0), or of \`all\`" \
    "  status          the TPUs, and how the run stands on every host" \
    "  stop            save and end the run on every host" \
    "  fetch FOLDER    copy metrics, samples, report and crash reports from the bucket" \
    "  delete          give the TPUs back: until then they cost money" \
    "" \
    "SETTINGS is a file like launch/example.conf. --dry-run prints the commands instead."
}

where() {
  printf '%s\n' "--project=$PROJECT" "--zone=$ZONE"
}

# The names of the slices' VMs.
nodes() {
  local slice
  if ((SLICES == 1)); then
    # shellcheck disable=SC2153 # read_settings sets it.
    echo "$NAME"
  else
    for ((slice = 0; slice < SLICES; slice++)); do echo "$NAME-$slice"; done
  fi
}

tier() {
  case "$PROVISIONING" in
    spot) echo --spot ;;
    reserved) echo --reserved ;;
  esac
}

create() {
  local ask=(gcloud compute tpus)
  if [[ "$QUEUED" == yes ]]; then
    ask+=(queued-resources create "$NAME" "${WHERE[@]}" "--accelerator-type=$ACCELERATOR"
      "--runtime-version=$RUNTIME")
    if ((SLICES == 1)); then
      ask+=("--node-id=$NAME")
    else
      ask+=("--node-count=$SLICES" "--node-prefix=$NAME")
    fi
  else
    ask+=(tpu-vm create "$NAME" "${WHERE[@]}" "--accelerator-type=$ACCELERATOR"
      "--version=$RUNTIME")
  fi
  mapfile -t -O "${#ask[@]}" ask < <(tier)
  call "${ask[@]}"
  await
}

# The state of what was asked for: ACTIVE, a word of Google's for less, or NONE.
state() {
  local text
  if [[ "$QUEUED" == yes ]]; then
    text="$(gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" \
      '--format=value(state.state)' 2>/dev/null)" || text=NONE
  else
    text="$(gcloud compute tpus tpu-vm describe "$NAME" "${WHERE[@]}" \
      '--format=value(state)' 2>/dev/null)" || text=NONE
    [[ "$text" != READY ]] || text=ACTIVE
  fi
  echo "${text:-NONE}"
}

await() {
  local now before=
  [[ "$DRY_RUN" == no ]] || return 0
  while now="$(state)" && [[ "$now" != ACTIVE ]]; do
    case "$now" in
      FAILED | SUSPENDED | SUSPENDING | NONE | PREEMPTED | TERMINATED)
        say "the request is $now"
        return 1
        ;;
    esac
    [[ "$now" == "$before" ]] || say "the request is $now"
    before="$now"
    sleep "$POLL_SECONDS"
  done
  say "$NAME is there"
}

# Runs a command on hosts: $1 is 0, 1, ... or all; the rest is one string for the shell there.
on_workers() {
  local node
  for node in $(nodes); do
    call gcloud compute tpus tpu-vm ssh "$node" "${WHERE[@]}" "--worker=$1" "--command=$2" ||
      return 1
  done
}

setup() {
  local archive node
  archive="$(mktemp -d)/babeldraw.tar.gz"
  call tar -czf "$archive" -C "$ROOT" --exclude=.git --exclude=.venv --exclude=./runs \
    --exclude='.*_cache' .
  for node in $(nodes); do
    call gcloud compute tpus tpu-vm scp "$archive" "$node:babeldraw.tar.gz" "${WHERE[@]}" \
      --worker=all || return 1
  done
  rm -rf -- "${archive%/*}"
  on_workers all "mkdir -p babeldraw && tar -xzf babeldraw.tar.gz -C babeldraw && $WORKER set_up"
}

run() {
  local words flags
  read -ra flags <<<"$FLAGS"
  words=("--config=$CONFIG" "--workdir=$WORKDIR" "${flags[@]}")
  on_workers all "$WORKER start train $(quoted "${words[@]}")"
}

# `done`, `mistake`, `again`, `running`, `mixed` (some have ended), or `unreachable`.
verdict() {
  local lines
  lines="$(on_workers all "$WORKER poll" 2>/dev/null | grep '^host ')" || { echo unreachable; return; }
  if grep -q ' exit 2$' <<<"$lines"; then
    echo mistake
  elif ! grep -vq ' exit 0$' <<<"$lines"; then
    echo "done"
  elif ! grep -vq ' running$' <<<"$lines"; then
    echo running
  elif grep -q ' running$' <<<"$lines"; then
    echo mixed
  else
    echo again
  fi
}

# Waits for the end of a run on all hosts; prints the verdict.
watch_run() {
  local how mixed=0 unreachable=0
  while true; do
    how="$(verdict)"
    case "$how" in
      running) mixed=0 unreachable=0 ;;
      # The roll call ends the others within its limit.
      mixed)
        mixed=$((mixed + 1))
        if ((mixed > PATIENCE)); then on_workers all "$WORKER stop 60" >&2 || true; fi
        ;;
      unreachable)
        unreachable=$((unreachable + 1))
        if ((unreachable > 2)) || [[ "$(state)" != ACTIVE ]]; then break; fi
        ;;
      *) break ;;
    esac
    sleep "$POLL_SECONDS"
  done
  echo "$how"
}

# From nothing to a finished run; after a preemption everything is made anew.
keep() {
  local failures=0 began how
  if [[ "$DRY_RUN" == yes ]]; then
    create && setup && run && on_workers all "$WORKER poll"
    return
  fi
  while ((failures <= MAX_FAILURES)); do
    began=$SECONDS
    how=unreachable
    if there && run; then how="$(watch_run)"; fi
    case "$how" in
      "done")
        say "the run is done: $WORKDIR"
        return 0
        ;;
      mistake)
        on_workers 0 "$WORKER log 20" >&2 || true
        fail "the run has ended with a mistake to mend, see above"
        ;;
    esac
    if [[ "$how" == unreachable && "$(state)" != ACTIVE ]]; then
      say "$NAME was preempted, going on"
    elif ((SECONDS - began > QUICK_SECONDS)); then
      say "the run has stopped ($how), going on"
      failures=0
    else
      failures=$((failures + 1))
      say "the run has stopped soon ($how), going on; failure $failures, $MAX_FAILURES are borne"
    fi
    sleep "$POLL_SECONDS"
  done
  fail "gave up after $failures failures in a row; \`logs\` and crashes/ in $WORKDIR tell why"
}

# Makes the TPUs be there and set up, whatever they were before.
there() {
  local now
  now="$(state)"
  case "$now" in
    ACTIVE) ;;
    NONE) create || return 1 ;;
    FAILED | SUSPENDED | SUSPENDING | PREEMPTED | TERMINATED)
      say "$NAME is $now: asking anew"
      delete || return 1
      create || return 1
      ;;
    *) await || return 1 ;;
  esac
  setup
}

logs() {
  on_workers "${1:-0}" "$WORKER follow"
}

status() {
  if [[ "$QUEUED" == yes ]]; then
    call gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}"
  else
    call gcloud compute tpus tpu-vm describe "$NAME" "${WHERE[@]}"
  fi
  on_workers all "$WORKER poll"
}

stop() {
  on_workers all "$WORKER stop 300"
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
  if [[ "$QUEUED" == yes ]]; then
    call gcloud compute tpus queued-resources delete "$NAME" "${WHERE[@]}" --force --quiet
  else
    call gcloud compute tpus tpu-vm delete "$NAME" "${WHERE[@]}" --quiet
  fi
}

check() {
  need PROJECT ZONE NAME ACCELERATOR RUNTIME SLICES PROVISIONING QUEUED CONFIG WORKDIR MAX_FAILURES
  [[ "$NAME" =~ ^[a-z][a-z0-9-]*$ ]] || fail "$CONF: NAME=$NAME: small letters, digits and - only"
  [[ "$SLICES" =~ ^[1-9][0-9]*$ ]] || fail "$CONF: SLICES=$SLICES is no number of slices"
  [[ "$PROVISIONING" =~ ^(spot|on-demand|reserved)$ ]] ||
    fail "$CONF: PROVISIONING=$PROVISIONING; it may be spot, on-demand or reserved"
  [[ "$QUEUED" =~ ^(yes|no)$ ]] || fail "$CONF: QUEUED=$QUEUED; it may be yes or no"
  ((SLICES == 1)) || [[ "$QUEUED" == yes ]] || fail "$CONF: several slices need QUEUED=yes"
  [[ "$MAX_FAILURES" =~ ^[0-9]+$ ]] || fail "$CONF: MAX_FAILURES=$MAX_FAILURES is no number"
}

main() {
  read_words "$@"
  check
  mapfile -t WHERE < <(where)
  case "${WORDS[1]}" in
    create | setup | run | keep | logs | status | stop | fetch | delete) "${WORDS[@]:1}" ;;
    *) fail "${WORDS[1]} is no command; see --help" ;;
  esac
}

main "$@"
