#!/usr/bin/env bash
# Finishes N more trials of a study on this machine, or all it has left, from nothing: environment, corpus, study,
# workers, result.
#
#   ./hptune.sh 50                          fifty trials of studies/hn
#   ./hptune.sh 6 --study quickstart        six small ones, offline, in minutes
#   ./hptune.sh --study ladder --scale cpu  a whole design at the size that its file has for two cores
#   ./hptune.sh 8 --workers 2 --set data.source=file --set data.path=titles.txt
#   ./hptune.sh 50 --docker                 the same in containers; needs Docker and nothing else
#   ./hptune.sh --prepare [--with-tests]    the environment alone
#
# Ctrl-C saves every running trial and says which command finishes the rest of the N.
set -euo pipefail

root=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
venv=$root/.venv
export PYTHONSAFEPATH=1 # nothing that lies in the current folder is taken for a module

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

# prepare LOCK...: installs what the lock files name, unless this very set is installed.
prepare() {
  local stamp=$venv/.installed wanted
  wanted=$(cd "$root" && cat "$@" | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  [ -w "$root" ] || fail "$root: the environment .venv cannot be made there: not writable"
  (
    flock 9 # two calls at once: the second waits and finds it done
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit; fi
    if [ ! -x "$venv/bin/python" ]; then
      echo "making the environment .venv"
      "$(find_python)" -m venv "$venv" || fail "no virtual environment can be made (on Debian: apt install python3-venv)"
    fi
    echo "installing $* (some minutes, once)"
    local lock arguments=()
    for lock in "$@"; do arguments+=(-r "$root/$lock"); done
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${arguments[@]}" ||
      fail "the dependencies could not be installed; the lines above say why"
    echo "$wanted" >"$stamp"
  ) 9>"$root/.venv.lock"
}

if [ "${1:-}" = --prepare ]; then
  if [ "${2:-}" = --with-tests ]; then
    prepare requirements.lock requirements-dev.lock
  else
    prepare requirements.lock
  fi
  exit
fi

# an environment with the test tools is as good
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$(cd "$root" && cat requirements.lock requirements-dev.lock | cksum)" ]; then
  prepare requirements.lock
fi
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$venv/bin/python" -m service run "$@"
