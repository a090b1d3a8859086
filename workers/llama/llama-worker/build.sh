#!/bin/bash
# build.sh [cpu|cuda]: builds the image llama-worker:latest, or llama-worker:cuda.
set -e
cd "$(dirname "${BASH_SOURCE[0]}")"
flavour=${1:-cpu}
node build.mjs "$flavour"
tag=latest
[[ $flavour == cpu ]] || tag=$flavour
docker build -t "llama-worker:$tag" "dist/$flavour"
