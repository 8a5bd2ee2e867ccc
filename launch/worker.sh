#!/usr/bin/env bash
# Runs on each host of a TPU slice, beside the code: sets up, starts a run that outlives the
# connection, tells how it stands. launch/tpu.sh calls it; by hand it works as well.
set -euo pipefail

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
STATE="$HOME/babeldraw-run"
LOG="$STATE/log"

# An environment with the released packages that constraints.txt names. TPU images may have a Python
# that is too old: uv brings its own.
set_up() {
  local stamp
  stamp="$(cat -- "$ROOT/pyproject.toml" "$ROOT/constraints.txt" | cksum)"
  if [[ "$(cat -- "$ROOT/.venv/.stamp" 2>/dev/null || true)" != "$stamp" ]]; then
    command -v uv >/dev/null || python3 -m pip install --user --quiet uv
    export PATH="$HOME/.local/bin:$PATH"
    uv venv --quiet --clear --python 3.12 "$ROOT/.venv"
    (cd -- "$ROOT" && uv pip install --quiet --python .venv/bin/python \
      --constraint constraints.txt --editable '.[tpu,gcs]')
    printf '%s' "$stamp" >"$ROOT/.venv/.stamp"
  fi
  echo "host $(hostname) is set up"
}

# $@: the words after `babeldraw`.
start() {
  mkdir -p -- "$STATE"
  if running; then
    echo "host $(hostname) runs already" >&2
    return 1
  fi
  rm -f -- "$STATE/status"
  setsid nohup bash "${BASH_SOURCE[0]}" hold "$@" </dev/null >/dev/null 2>&1 &
  echo "$!" >"$STATE/pid"
  echo "host $(hostname) started"
}

# The run itself, with its exit status written down when it ends; a stop is passed on to it.
hold() {
  local child status=0
  cd -- "$ROOT"
  printf '==> %s babeldraw %s\n' "$(date -u +%FT%TZ)" "$*" >>"$LOG"
  "$ROOT/.venv/bin/babeldraw" "$@" >>"$LOG" 2>&1 &
  child=$!
  trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT
  wait "$child" || status=$?
  # A signal ends the first wait, not the run.
  while kill -0 "$child" 2>/dev/null; do
    status=0
    wait "$child" || status=$?
  done
  printf '%s' "$status" >"$STATE/status.partial"
  mv -- "$STATE/status.partial" "$STATE/status"
}

running() {
  [[ -r "$STATE/pid" && ! -e "$STATE/status" ]] && kill -0 "$(cat -- "$STATE/pid")" 2>/dev/null
}

# One line: `host NAME running`, `exit STATUS`, `lost` (killed without a word) or `idle`.
poll() {
  local how=idle
  if running; then
    how=running
  elif [[ -r "$STATE/status" ]]; then
    how="exit $(cat -- "$STATE/status")"
  elif [[ -r "$STATE/pid" ]]; then
    how=lost
  fi
  echo "host $(hostname) $how"
}

# The run saves and ends; after $1 seconds it is killed.
stop() {
  local left="${1:-300}"
  if running; then
    kill -TERM "$(cat -- "$STATE/pid")" || true
    while running && ((left > 0)); do
      sleep 1
      left=$((left - 1))
    done
    if running; then kill -KILL -- "-$(cat -- "$STATE/pid")" || true; fi
  fi
  poll
}

case "${1:-}" in
  set_up | start | hold | poll | stop) "$@" ;;
  log) tail -n "${2:-50}" -- "$LOG" ;;
  follow) tail -n 50 -F -- "$LOG" ;;
  *)
    echo "usage: worker.sh set_up | start WORDS... | poll | stop [SECONDS] | log [LINES] | follow" >&2
    exit 2
    ;;
esac
