#!/usr/bin/env bash
# Sets babeldraw up in .venv beside pyproject.toml and runs it; `--help` tells how.
set -euo pipefail

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
STAMP="$VENV/.ready"
# Beside .venv, not in it: it has to outlive a `venv --clear` that is interrupted.
UNFINISHED="$ROOT/.venv.unfinished"

usage() {
  printf '%s\n' \
    "usage: bash launch/local.sh WORDS..." \
    "" \
    "  demo [FLAGS]        the whole path on this machine; the page is written to ./runs/demo" \
    "  test [PYTEST ARGS]  the tests, in the repository's root: test tests/data -m slow" \
    "  WORDS...            any other command of babeldraw: sample --workdir=runs/demo/text_to_image" \
    "  --which-python      print the Python that a set-up would take" \
    "  --help              print this" \
    "" \
    "The first run sets up .venv; PYTHON=/path/to/python3 chooses the Python (3.11 to 3.13)."
}

fail() {
  printf 'launch/local.sh: %s\n' "$1" >&2
  exit 1
}

# A pyenv shim exists and fails where its version is not active: only a run tells.
runs() {
  "$1" -I -c 'import sys, venv, ensurepip
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

candidates() {
  printf '%s\n' python3 python3.13 python3.12 python3.11
  compgen -G "${HOME:-}/.pyenv/versions/3.1[123].*/bin/python3" || true
}

find_python() {
  local candidate path
  if [[ -n "${PYTHON:-}" ]]; then
    if runs "$PYTHON"; then
      command -v -- "$PYTHON"
      return
    fi
    printf 'PYTHON=%s is no Python 3.11 to 3.13 with venv and pip; looking further\n' "$PYTHON" >&2
  fi
  while read -r candidate; do
    if path="$(command -v -- "$candidate")" && runs "$path"; then
      printf '%s\n' "$path"
      return
    fi
  done < <(candidates)
  fail "found no Python 3.11 to 3.13 with venv and pip: install one \
(Debian, Ubuntu: apt install python3-venv) or set PYTHON=/path/to/python3"
}

version() {
  "$1" -I -S -c 'import sys; print(sys.version)' 2>/dev/null
}

# Changes whenever the environment must be set up anew; the root is in it because an editable
# install does not survive a move.
fingerprint() {
  "$VENV/bin/python" -I -S -c '
import hashlib, pathlib, sys
parts = [text.encode() for text in (sys.version, sys.argv[1])]
parts += [pathlib.Path(name).read_bytes() for name in sys.argv[2:]]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
' "$ROOT" "$ROOT/pyproject.toml" "$ROOT/constraints.txt"
}

is_whole() {
  [[ ! -e "$UNFINISHED" ]] && runs "$VENV/bin/python" || return 1
  [[ -z "${PYTHON:-}" ]] || ! runs "$PYTHON" ||
    [[ "$(version "$PYTHON")" == "$(version "$VENV/bin/python")" ]]
}

is_ready() {
  local hash extra
  [[ -r "$STAMP" ]] && is_whole || return 1
  read -r hash extra <"$STAMP" || return 1
  [[ "$hash" == "$(fingerprint)" && ("$1" == "" || "$1" == "$extra") ]]
}

# $1: the extra to install, or nothing.
set_up() {
  if is_ready "$1"; then return; fi
  local python other
  other="$(cat -- "$UNFINISHED" 2>/dev/null || true)"
  if [[ -n "$other" ]] && kill -0 "$other" 2>/dev/null; then
    fail "process $other is setting up .venv: wait for it, or end it and remove $UNFINISHED"
  fi
  if is_whole; then
    printf 'bringing %s up to date ...\n' "$VENV" >&2
  else
    python="$(find_python)"
    printf 'setting up %s (about 600 MB to download, once) ...\n' "$VENV" >&2
  fi
  echo "$$" >"$UNFINISHED"
  if [[ -n "${python:-}" ]]; then "$python" -m venv --clear "$VENV"; fi
  (cd -- "$ROOT" && "$VENV/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".${1:+[$1]}") ||
    fail "the set-up failed, see above; the next run starts it afresh"
  printf '%s %s\n' "$(fingerprint)" "$1" >"$STAMP"
  rm -- "$UNFINISHED"
}

main() {
  # Only the environment silences TensorFlow's lines at import.
  export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL-3}"
  export TF_ENABLE_ONEDNN_OPTS="${TF_ENABLE_ONEDNN_OPTS-0}"
  # A training step allocates and frees all its memory: huge pages save a tenth of its time. And
  # BLAS threads, which only the scoring of pictures uses, would take the cores from XLA's.
  export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"
  export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS-1}"
  case "${1:-}" in
    "")
      usage >&2
      exit 2
      ;;
    -h | --help) usage ;;
    --which-python) find_python ;;
    test)
      shift
      set_up tests
      cd -- "$ROOT"
      # A worker per core, files of tests shared among them; `test -n0` runs in one process.
      exec "$VENV/bin/python" -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile "$@"
      ;;
    prepare | emoji)
      set_up "$1"
      exec "$VENV/bin/babeldraw" "$@"
      ;;
    *)
      # The demo of emoji draws them.
      case "$*" in
        demo*--world[=\ ]emoji*) set_up emoji ;;
        *) set_up "" ;;
      esac
      exec "$VENV/bin/babeldraw" "$@"
      ;;
  esac
}

main "$@"
