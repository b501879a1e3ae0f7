#!/usr/bin/env bash
# The wheels that run.sh needs on a machine that has torch, what transformers and peft bring along,
# accelerate, sentence-transformers, pandas, pyarrow, scipy and pytest, but no network.
#
#   tests/gpu/wheels.sh DIR [PYTHON_VERSION] [CUDA]       defaults: 3.12 130
#
# Versions are those of constraints.txt, without their dependencies: each that may be missing, or too
# old for lensbench (transformers), is named here. bitsandbytes carries a library for every release of
# CUDA, of ROCm and of XPU, 60 MB in all, and loads the one that torch was built for: of these only
# that for CUDA is kept, and the CPU's.
set -euo pipefail

folder=${1:?a folder for the wheels} version=${2:-3.12} cuda=${3:-130}
here=$(cd "$(dirname "$0")" && pwd)
constraints=$here/../../constraints.txt
packages=(
    transformer-lens datasets dill multiprocess xxhash
    cyclopts docstring_parser rich-rst
    pydantic pydantic_core annotated-types typing-inspection typing_extensions
    platformdirs gguf bitsandbytes
    transformers peft
)
platforms=()
for minor in $(seq 39 -1 17); do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)

pinned=()
for name in "${packages[@]}"; do
    line=$(grep -iE "^$name==" "$constraints") || { echo "$name: not in constraints.txt" >&2; exit 1; }
    pinned+=("$line")
done
mkdir -p "$folder"
python3 -m pip download -qq --no-deps --only-binary=:all: --disable-pip-version-check \
    --python-version "$version" --implementation cp "${platforms[@]}" -d "$folder" "${pinned[@]}"

python3 - "$folder" "$cuda" <<'END'
"""Keep of bitsandbytes' libraries those for the CPU and one CUDA."""

import pathlib
import re
import sys
import zipfile

folder, cuda = pathlib.Path(sys.argv[1]), sys.argv[2]
for wheel in folder.glob("bitsandbytes-*.whl"):
    slim = wheel.with_suffix(".slim")
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(slim, "w", zipfile.ZIP_DEFLATED) as kept:
        for item in whole.infolist():
            of = re.search(r"libbitsandbytes_(\w+)\.so$", item.filename)
            if of is None or of[1] in ("cpu", f"cuda{cuda}"):
                kept.writestr(item, whole.read(item))
    slim.replace(wheel)
END
du -ch "$folder"/*.whl | tail -n 1
