#!/bin/sh
# Stands in for nvidia-smi: answers `-q -x`, `-q -x -i <uuid>` and `-L` from the files of a folder, which a test changes as it goes:
# $FAKE_NVIDIA_SMI, or else `gpus` beside this script.
#
#   <n>.xml      GPU n: one <gpu>…</gpu> element in the form of `nvidia-smi -q -x`
#   <n>.list     its MIG devices, as lines of `nvidia-smi -L`
#   <n>.lost     GPU n cannot be asked; the words of the driver, such as `0000:01:00.0: Unknown Error`
#   stops-at-lost  as old versions do: nothing is said of the other GPUs
#   stderr       what is said beside the answer
#   exit         the exit code; with one other than 0 and no GPU, the words in `stderr` are the whole answer
#   hang         no answer at all
folder=${FAKE_NVIDIA_SMI:-$(dirname "$0")/gpus}
[ -e "$folder/hang" ] && exec sleep 3600
[ -e "$folder/stderr" ] && cat "$folder/stderr" >&2
code=0
[ -e "$folder/exit" ] && code=$(cat "$folder/exit")
only=
[ "$3" = -i ] && only=$4

body=
for xml in "$folder"/*.xml; do
  [ -e "$xml" ] || continue
  number=$(basename "$xml" .xml)
  gpu=$(cat "$xml")
  uuid=$(printf '%s' "$gpu" | sed -n 's:.*<uuid>\(GPU-[^<]*\)</uuid>.*:\1:p' | head -n 1)
  name=$(printf '%s' "$gpu" | sed -n 's:.*<product_name>\(.*\)</product_name>.*:\1:p' | head -n 1)
  [ -n "$only" ] && [ "$only" != "$uuid" ] && continue
  if [ -e "$folder/$number.lost" ]; then
    echo "Unable to determine the device handle for GPU $(cat "$folder/$number.lost")"
    [ -e "$folder/stops-at-lost" ] && exit 15
    continue
  fi
  if [ "$1" = -L ]; then
    echo "GPU $number: $name (UUID: $uuid)"
    [ -e "$folder/$number.list" ] && cat "$folder/$number.list"
  else
    body="$body$gpu"
  fi
done
if [ "$1" != -L ] && { [ -n "$body" ] || [ "$code" = 0 ]; }; then
  count=0
  [ -n "$body" ] && count=1
  echo '<?xml version="1.0" ?>'
  echo '<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v13.dtd">'
  # Not echo, which may read a backslash for itself.
  printf '<nvidia_smi_log><attached_gpus>%s</attached_gpus>%s</nvidia_smi_log>\n' "$count" "$body"
fi
exit "$code"
