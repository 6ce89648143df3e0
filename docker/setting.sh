#!/usr/bin/env bash
# What Compose takes a variable for, from the shell and from .env as it reads them (quotes, comments, `export`, other
# variables): docker/setting.sh NAME DEFAULT
set -euo pipefail

root=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
# a file of one service that asks for nothing else, so that no other variable can be at fault
docker compose --project-name hptune --project-directory "$root" --file - config --format json <<END |
services: {ask: {image: none, labels: {answer: "\${$1:-$2}"}}}
END
  sed -n 's/^ *"answer": "\(.*\)"$/\1/p'
