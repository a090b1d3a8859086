#!/bin/bash
# ./build.sh [cpu|cuda]
set -e
cd "$(dirname "${BASH_SOURCE[0]}")"
./prepare.sh
if [ "${1:-cpu}" = cpu ]; then
  docker build -t text-trainer:latest .
else
  docker build -f "Dockerfile.$1" -t "text-trainer:$1" .
fi
