#!/bin/bash
# ./build.sh [cpu|cuda|vulkan]
set -e
cd "$(dirname "${BASH_SOURCE[0]}")"
backend="${1:-cpu}"
node ../../../tools/bundle-worker.mjs .
npm ci --prefix "engine/$backend" --ignore-scripts --no-audit --no-fund
if [ "$backend" = cpu ]; then
  docker build -t whisper-worker:latest .
else
  docker build -f "Dockerfile.$backend" -t "whisper-worker:$backend" .
fi
