#!/usr/bin/env bash
# Finishes N more trials of a study, or all it has left, in containers, with progress: `./hptune.sh [N] --docker
# [--study S] [--scale S] [--name NAME] [--workers W] [--set KEY=VALUE]...`. Needs Docker with Compose v2 and nothing
# else; .env and .env.example say more.
set -euo pipefail

root=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
trials='' study='' name='' scale='' settings=()

fail() { echo "error: $*" >&2; exit 2; }

# A corpus file of the host is mounted; the study knows it by the path it has in the container.
add_setting() {
  local key=${1%%=*} file=${1#*=}
  if [ "$key" = data.path ] && [ -f "$file" ]; then
    file=$(readlink -f -- "$file")
    HPTUNE_DATA=$(dirname -- "$file")
    export HPTUNE_DATA
    settings+=(--set "data.path=/data/$(basename -- "$file")")
  else
    settings+=(--set "$1")
  fi
}

while [ $# -gt 0 ]; do
  option=${1%%=*} value=${1#*=}
  case $option in
    --study | --scale | --name | --workers | --set)
      if [ "$option" = "$1" ]; then
        [ $# -gt 1 ] || fail "$option: needs a value"
        value=$2
        shift
      fi ;;
  esac
  case $option in
    --docker) ;;
    --study) study=$value ;;
    --scale) scale=$value ;;
    --name) name=$value ;;
    --workers) export HPTUNE_WORKERS=$value ;;
    --set) add_setting "$value" ;;
    '' | *[!0-9]*) fail "$1: not known with --docker, allowed: N, --study, --scale, --name, --workers, --set" ;;
    *) trials=$1 ;;
  esac
  shift
done
docker compose version >/dev/null 2>&1 || fail "Docker with Compose v2 is not installed"
study=${study:-$("$root/docker/setting.sh" HPTUNE_STUDY hn)} ||
  fail ".env: Compose cannot read it; the lines above say why"
[[ $study != */* ]] || fail "--study $study: with --docker, a folder's name under studies/"
docker info >/dev/null 2>&1 || fail "the Docker engine does not answer; is it running, and may this user reach it?"

cd "$root"
export HPTUNE_STUDY=${name:-$study${scale:+-$scale}} HPTUNE_TRIALS='' # the workers take the trials made below
project=$(docker compose config | sed -n 's/^name: //p')
while read -r folder; do
  [ "$folder" -ef . ] || fail "the containers of project $project belong to $folder; give this clone a name of its" \
    "own in .env: COMPOSE_PROJECT_NAME=$project-2"
done < <(docker ps --all --filter "label=com.docker.compose.project=$project" \
  --format '{{.Label "com.docker.compose.project.working_dir"}}' | sort --unique)
if commit=$(git rev-parse HEAD 2>/dev/null); then
  [ -z "$(git status --porcelain)" ] || commit+=+changes
  export HPTUNE_COMMIT=$commit
fi

# Without those that `docker compose run` has put beside them.
workers() {
  docker ps --quiet "$@" --filter "label=com.docker.compose.project=$project" \
    --filter label=com.docker.compose.service=workers --filter label=com.docker.compose.oneoff=False
}

# Some workers run, or are to start again after something else than what only the user can mend (status 2).
at_work() {
  local container
  for container in $(workers --filter status=running --filter status=restarting); do
    [ "$(docker inspect --format '{{.State.Restarting}} {{.State.ExitCode}}' "$container")" = 'true 2' ] || return 0
  done
  return 1
}

# The trials that are left, and the command that finishes them.
say_rest() {
  local finished all
  read -r finished all < <(docker compose run --rm --no-deps --no-TTY status "$HPTUNE_STUDY" </dev/null 2>/dev/null |
    sed -n 's/^\([0-9]*\) of \([0-9]*\) trials finished.*/\1 \2/p') || {
    echo 'the storage is away; what is left is not known'
    return
  }
  local left=$((all - finished))
  [ "$left" -gt 0 ] || return 0
  echo "$left trials are left; to finish them: ./hptune.sh${trials:+ $left} --study $study" \
    "--docker${scale:+ --scale $scale}${name:+ --name $name}${HPTUNE_WORKERS:+ --workers $HPTUNE_WORKERS}"
}

if at_work; then
  busy_with=$(docker inspect --format '{{index .Config.Cmd 0}}' "$(workers | head -1)")
  [ "$busy_with" = "$HPTUNE_STUDY" ] ||
    fail "workers are at work on study $busy_with; let them end, or: docker compose stop workers; beside them:" \
      "docker compose run --detach workers $HPTUNE_STUDY, once it is made (docker compose run --rm create ...)"
fi
docker compose build workers
docker compose run --rm create "$study" ${trials:+--trials "+$trials"} ${scale:+--scale "$scale"} \
  ${name:+--name "$name"} "${settings[@]}"
docker compose up --detach --no-deps workers

watcher=hptune-watch-$$
leave() {
  trap 'echo "left: the engine goes on stopping the workers, each saves its trial"; exit 130' INT TERM
  echo 'stopping the workers; each saves its trial'
  docker kill "$watcher" >/dev/null 2>&1 || true
  docker compose stop workers
  local container unsaved=
  for container in $(docker compose ps --all --quiet workers); do
    case $(docker inspect --format '{{.State.ExitCode}}' "$container") in 0 | 130) ;; *) unsaved=yes ;; esac
    # what a worker could not save, its supervisor says in its last line
    ! docker logs --tail 1 "$container" 2>&1 | grep -q 'without saving all' || unsaved=yes
  done
  if [ -z "$unsaved" ]; then
    echo "stopped: every trial's state is saved"
  else
    echo 'stopped: a worker ended without saving all; its trial resumes from its last saved rung'
  fi
  say_rest
  exit 130
}
watch_progress() {
  docker compose run --rm --no-deps --name "$watcher" "$@" status "$HPTUNE_STUDY" --watch
}
trap leave INT TERM
# without workers the trials are never used up: the table ends after them
(
  trap - INT TERM
  while at_work; do sleep 1; done
  sleep 5 # the table of a study that is used up ends by itself
  docker kill --signal INT "$watcher"
) >/dev/null 2>&1 &
after_workers=$! shown=''
while at_work; do
  status=0
  if [ -t 0 ] && [ -t 1 ]; then
    watch_progress || status=$?
    # Ctrl-C goes to the container alone, and shows in its status
    if [ "$status" -eq 130 ] && at_work; then leave; fi
  else
    watch_progress --no-TTY </dev/null &
    wait $! || status=$?
  fi
  if [ "$status" -eq 0 ]; then # the trials are used up, and the last table says so
    shown=yes
    while at_work; do sleep 1; done
    break
  fi
  sleep 1 # the workers end; or the storage was away, and the next table tells
done
kill "$after_workers" 2>/dev/null || true
trap - INT TERM

[ -n "$shown" ] || docker compose run --rm --no-deps status "$HPTUNE_STUDY"
docker compose stop workers >/dev/null 2>&1 # those that would start again with the same mistake
for container in $(workers --all); do
  if [ "$(docker inspect --format '{{.State.ExitCode}}' "$container")" != 0 ]; then
    docker logs --tail 20 "$container" >&2
    say_rest >&2
    fail 'workers failed; the lines above say why'
  fi
done
cat <<END
evaluate the best on held-out titles: docker compose run --rm evaluator --study $HPTUNE_STUDY
see them in a browser:                docker compose up --detach --no-deps dashboard
                                      docker compose port dashboard 8080
END
