# shellcheck shell=bash
# What tpu.sh and gke.sh share: settings from a file of text, dry runs. Sourced, not run.

# Every setting there is; the file may hold no other.
SETTINGS=(PROJECT ZONE NAME ACCELERATOR RUNTIME SLICES PROVISIONING QUEUED CONFIG WORKDIR FLAGS
  MAX_FAILURES CLUSTER IMAGE MACHINE TOPOLOGY TPU_LABEL HOSTS CHIPS_PER_HOST)
DRY_RUN=no

say() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
}

fail() {
  say "$1"
  exit 2
}

# Reads the file $1 into variables of those names. It is never sourced: a value is only ever a word.
read_settings() {
  local line name value number=0
  [[ -r "$1" ]] || fail "cannot read the settings $1; copy launch/example.conf"
  while IFS= read -r line || [[ -n "$line" ]]; do
    number=$((number + 1))
    [[ -z "$line" || "$line" == \#* ]] && continue
    name="${line%%=*}" value="${line#*=}"
    [[ "$line" == *=* && " ${SETTINGS[*]} " == *" $name "* ]] ||
      fail "$1:$number: ${name} is no setting; they are ${SETTINGS[*]}"
    # What Google's names, paths and our flags need; nothing that a shell or YAML would read.
    [[ "$value" =~ ^[A-Za-z0-9_./:,=@%+\ -]*$ && ("$value" != *' '* || "$name" == FLAGS) ]] ||
      fail "$1:$number: $name holds something else than letters, digits and _./:,=@%+-"
    printf -v "$name" '%s' "$value"
  done <"$1"
}

# Fails for the first of the named settings that is empty.
need() {
  local name
  for name in "$@"; do
    [[ -n "${!name:-}" ]] || fail "$CONF: $name is missing; see launch/example.conf"
  done
}

# Runs a command; in a dry run prints it, as one could type it.
call() {
  if [[ "$DRY_RUN" == yes ]]; then
    printf '%s' "$1"
    printf ' %q' "${@:2}"
    printf '\n'
  else
    "$@"
  fi
}

# Words as one string that a shell on another machine splits into the same words.
quoted() {
  local text
  printf -v text '%q ' "$@"
  printf '%s' "${text% }"
}

# The command line: sets WORDS (settings file, command, its arguments), DRY_RUN and the settings.
# `usage` prints the script's own help.
read_words() {
  local word
  WORDS=()
  for word in "$@"; do
    case "$word" in
      --dry-run) DRY_RUN=yes ;;
      -h | --help)
        usage
        exit 0
        ;;
      *) WORDS+=("$word") ;;
    esac
  done
  if ((${#WORDS[@]} < 2)); then
    usage >&2
    exit 2
  fi
  CONF="${WORDS[0]}"
  # shellcheck disable=SC2034 # The scripts read it, empty where the file has none.
  FLAGS=''
  read_settings "$CONF"
}
