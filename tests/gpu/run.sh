#!/usr/bin/env bash
# The tests marked `gpu`, then the GPU bench, in under ten minutes and without a network: on a
# machine that has torch and transformers, what else is missing comes from a folder of wheels
# (wheels.sh fetches it). Nothing is installed outside a temporary folder.
set -uo pipefail

usage() {
    cat <<'END'
tests/gpu/run.sh --out DIR [options]
  --out DIR      logs, gpu.json, gpu.md and gpu-profile.txt
  --wheels DIR   wheels to put before what is installed (tests/gpu/wheels.sh fetches them)
  --device NAME  cuda (default), mps, cpu
  --small        a toy model in the bench: with --device cpu, proves this script
  --python EXE   default: python3
  --jobs N       tests at a time (default: half the cores, at most 6)
  --only PART    tests or bench
  --rounds N     of each job of the bench (default 5)
  --seconds N    for the tests and for the bench at most (default 270)
Ends with 0 if all tests passed and the bench ran.
END
}

out='' wheels='' device=cuda small='' python=python3 only='' seconds=270 rounds=5
cores=$(getconf _NPROCESSORS_ONLN)
jobs=$((cores / 2 > 6 ? 6 : cores / 2 < 1 ? 1 : cores / 2))
while [ $# -gt 0 ]; do
    case $1 in
        --small) small=--small; shift; continue ;;
        --help | -h) usage; exit 0 ;;
        --out | --wheels | --device | --python | --jobs | --only | --rounds | --seconds)
            [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; } ;;
        *) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
    esac
    declare "${1#--}=$2"
    shift 2
done
[ -n "$out" ] || { usage >&2; exit 2; }

repository=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$out" && out=$(cd "$out" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

export PYTHONPATH=$repository PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
if [ -n "$wheels" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
        --disable-pip-version-check --root-user-action ignore \
        --target "$scratch/site" "$wheels"/*.whl || exit 1
    PYTHONPATH=$scratch/site:$PYTHONPATH
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false XDG_CACHE_HOME=$scratch/cache
export LENSBENCH_TEST_DEVICE=$device
mkdir -p "$XDG_CACHE_HOME"
cd "$repository"

{
    date -u
    nvidia-smi 2>/dev/null || echo "no nvidia-smi here"
    "$python" - <<'END'
import importlib.metadata as metadata
import platform

import torch

print("python", platform.python_version(), "cuda", torch.version.cuda, torch.cuda.is_available())
print("float32 products", torch.get_float32_matmul_precision())
for name in ("torch", "transformers", "transformer-lens", "tokenizers", "peft", "accelerate",
             "bitsandbytes", "numpy", "pyarrow", "pydantic"):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "is not installed")
END
} >"$out/machine.txt" 2>&1

status=0
if [ "$only" != bench ]; then
    # Only files that hold such tests: others may need packages that are not here.
    mapfile -t files < <(grep -rlE 'mark\.gpu\b' tests --include='test_*.py' | sort)
    OMP_NUM_THREADS=1 timeout -k 10 "$seconds" "$python" -m pytest -m gpu "${files[@]}" -v \
        -p no:cacheprovider -n "$jobs" --timeout 120 --durations 15 \
        --junitxml "$out/tests.xml" >"$out/tests.txt" 2>&1 || status=1
    tail -n 40 "$out/tests.txt"
fi
if [ "$only" != tests ]; then
    timeout -k 10 "$seconds" "$python" -m tests.benchmarks.gpu --device "$device" $small \
        --rounds "$rounds" --out "$out" >"$out/bench.txt" 2>&1 || status=1
    tail -n 45 "$out/bench.txt"
fi
exit $status
