#!/bin/bash
# Puts what the image holds, and what runs without Docker, into dist/.
set -e
cd "$(dirname "${BASH_SOURCE[0]}")"
sdk=../../sdk/python/gpu_service_worker.py
# A folder that was copied to a server brings dist along.
[ -e "$sdk" ] || exit 0
rm -rf dist
mkdir dist
cp -r "$sdk" src/. dist/
rm -rf dist/__pycache__ dist/trainer/__pycache__
