#!/bin/bash
# build.sh [cpu|vulkan|cuda]: builds the image diffusion-worker:latest, diffusion-worker:vulkan or diffusion-worker:cuda.
set -e
cd "$(dirname "${BASH_SOURCE[0]}")"
flavour=${1:-cpu}
tag=latest
[[ $flavour == cpu ]] || tag=$flavour
if [[ $flavour == cuda ]]; then
  # The SDK is one file, to be copied.
  mkdir -p dist/cuda
  cp diffusers/{Dockerfile,requirements.txt,order.py,worker.py} ../../sdk/python/gpu_service_worker.py dist/cuda/
else
  node build.mjs "$flavour"
fi
docker build -t "diffusion-worker:$tag" "dist/$flavour"
