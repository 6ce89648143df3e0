#!/usr/bin/env bash
# Finishes N more trials of a study on this machine, or all it has left, from nothing: environment, corpus, study,
# workers, result. `usage` below says how.
set -euo pipefail

root=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
venv=$root/.venv
export PYTHONSAFEPATH=1 # nothing that lies in the current folder is taken for a module

usage() {
  cat <<'END'
usage: ./hptune.sh [N] [--study STUDY] [--scale NAME] [--name NAME] [--workers W] [--set KEY=VALUE]... [--docker]
       ./hptune.sh --prepare [--with-tests]

Finishes N more trials of a study and shows the best; without N, all that the study has left. The first call installs
the environment .venv, which takes some minutes. Ctrl-C saves every running trial and says which command finishes the
rest; a second one kills.

  --study STUDY     a folder under studies/, or a study file  [default: hn]
  --scale NAME      one of the sizes that the study file has
  --name NAME       what to call it in the storage
  --workers W       processes; one a GPU, or one for two cores, unless given
  --set KEY=VALUE   change a key of train_config.yaml for the whole study; may be given again
  --docker          the same in containers; needs Docker with Compose v2 and nothing else
  --prepare         the environment alone; --with-tests: and the test tools
  -h, --help        this

  ./hptune.sh 6 --study quickstart          six small trials, offline once installed, in minutes
  ./hptune.sh 50                            fifty of studies/hn
  ./hptune.sh --study ladder --scale cpu    a whole design at the size that its file has for two cores
  ./hptune.sh 8 --set data.source=file --set data.path=titles.txt

Other verbs (status, report, confirm, dashboard): .venv/bin/python -m service --help
END
}

for argument in "$@"; do
  case $argument in -h | --help) usage && exit ;; esac
done
for argument in "$@"; do
  if [ "$argument" = --docker ]; then exec "$root/docker/run.sh" "$@"; fi
done

fail() { echo "error: $*" >&2; exit 2; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or later found; install one, or name it: PYTHON=/path/to/python $0"
}

# told COUNT: what pip writes of so many packages, for people: a line for each large one, for every tenth, and at the end.
told() {
  local line count=0 of what
  while IFS= read -r line; do
    what=
    case $line in
      Collecting\ * | Processing\ * | "Requirement already satisfied: "*)
        count=$((count + 1))
        of=" of $1"
        [ "$count" -le "$1" ] || of= # what a lock file leaves to torch's own pins
        [ $((count % 10)) != 0 ] || what=" packages"
        ;;
      *Downloading\ *\([0-9.]*\ [MG]B\)*)
        what=${line##*(}
        what=": fetching $(basename -- "${line#*Downloading }" | sed 's/-.*//'), ${what%%)*}"
        ;;
      "Installing collected packages"*) echo "  unpacking $count packages, a minute or more" ;;
    esac
    [ -z "$what" ] || echo "  $count${of:-}$what"
  done
}

# prepare LOCK...: installs what the lock files name, unless this very set is installed, or the test tools beside it.
prepare() {
  local stamp=$venv/.installed wanted
  wanted=$(cd "$root" && cat "$@" | cksum)
  case $(cat "$stamp" 2>/dev/null) in
    "$wanted" | "$(cd "$root" && cat requirements.lock requirements-dev.lock | cksum)") return ;;
  esac
  [ -w "$root" ] || fail "$root: the environment .venv cannot be made there: not writable"
  (
    flock 9 # two calls at once: the second waits and finds it done
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit; fi
    if [ ! -x "$venv/bin/python" ]; then
      echo "making the environment .venv"
      "$(find_python)" -m venv "$venv" || fail "no virtual environment can be made (on Debian: apt install python3-venv)"
    fi
    echo "installing $* (some minutes, once)"
    local lock arguments=() log=$venv/install.log
    for lock in "$@"; do arguments+=(-r "$root/$lock"); done
    "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off "${arguments[@]}" 2>&1 |
      tee "$log" | told "$(cd "$root" && cat "$@" | grep -c ==)" || {
      grep -E '(ERROR|rror):' "$log" >&2 || tail -3 "$log" >&2
      fail "the dependencies could not be installed; the lines above say why, $log has all"
    }
    echo "$wanted" >"$stamp"
  ) 9>"$root/.venv.lock"
}

if [ "${1:-}" = --prepare ]; then
  if [ "${2:-}" = --with-tests ]; then
    prepare requirements.lock requirements-dev.lock
  else
    prepare requirements.lock
  fi
  echo "the environment $venv is ready"
  exit
fi

prepare requirements.lock
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$venv/bin/python" -m service run "$@"
