#!/bin/bash
# On the machine with the GPU, beside what build.sh packed: unpacks it, installs the wheels beside the machine's own packages, and
# runs the stages for at most SECONDS_LEFT (560). Further options go to `python -m tests.benchmarks.gpu`.
#   OUT=FOLDER bash run.sh                          # all
#   OUT=FOLDER bash run.sh --only steps,graphs      # some
#   CHECK_ONLY=1 OUT=FOLDER bash run.sh             # unpack, install, and see that the code imports
set -u
here=$(cd "$(dirname "$0")" && pwd)
: "${OUT:?set OUT to a folder}"
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)
work=${WORK:-${TMPDIR:-/tmp}/gpu_work}
site=$work/site code=$work/code
started=$(date +%s)
if [ ! -d "$code/harness" ]; then
  mkdir -p "$code" && tar -xJf "$here/code.tar.xz" -C "$code" || exit 1
fi
wheels=("$here"/wheels/*.whl)
if [ -f "${wheels[0]}" ] && [ ! -d "$site" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "${wheels[@]}" || exit 1
fi
if [ -f "$here/ray.tar.xz" ] && [ ! -d "$site/ray" ]; then
  mkdir -p "$site" && tar -xJf "$here/ray.tar.xz" -C "$site" || exit 1
fi
cd "$code" || exit 1
export PYTHONPATH="$code:$here/minilm:$site:${PYTHONPATH:-}" PYTHONUNBUFFERED=1 HARNESS_CACHE="$work/cache" HF_HUB_OFFLINE=1
if [ -n "${CHECK_ONLY:-}" ]; then
  exec python3 -m tests.benchmarks.gpu --out "$OUT" --only environment --small
fi
left=$((${SECONDS_LEFT:-560} - ($(date +%s) - started)))
exec python3 -m tests.benchmarks.gpu --out "$OUT" --seconds "$left" --glue "${GLUE:-$work/glue}" "$@"
