"""The memory that loading takes is what `lensbench doctor` says, measured from outside.

The largest run takes 4.8 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from lensbench.quantized.precision import sizes_of
from tests.benchmarks.memory import write_random

# By width: a model whose embedding is a third of it, and one whose blocks are nearly all.
CONFIGS = {
    "110M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8},
    "340M": {"hidden_size": 1280, "intermediate_size": 3584, "num_hidden_layers": 14},
    "1.1B": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22},
}
_LOADED = """
import re, sys
from pathlib import Path
import accelerate, transformers.models.llama.modeling_llama
from lensbench.checkpoints.open import open_config
from lensbench.quantized.loading.load import load_quantized
from lensbench.quantized.precision import obstacle, sizes_of
def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
folder, bits = Path(sys.argv[1]), int(sys.argv[2])
obstacle(bits, "cpu"), sizes_of(open_config(folder))
program = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
model = load_quantized(folder, bits, device="cpu")
print(program, memory("VmHWM"), memory("VmRSS"), model.weight_bytes)
"""


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("memory")
    fields = {
        **CONFIGS[request.param],
        "model_type": "llama",
        "num_attention_heads": CONFIGS[request.param]["hidden_size"] // 64,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "torch_dtype": "bfloat16",
    }
    (place / "given.json").write_text(json.dumps(fields))
    write_random(place / "given.json", place / "model")
    return place / "model"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own marks are read")
@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_the_peak_of_loading_is_predicted_within_a_tenth(folder: Path, bits: int) -> None:
    command = [sys.executable, "-c", _LOADED, str(folder), str(bits)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    program, peak, after, weights = map(int, done.stdout.split()[-4:])
    predicted = sizes_of(AutoConfig.from_pretrained(folder)).loading_bytes(bits)  # type: ignore[arg-type]
    assert program + predicted == pytest.approx(peak, rel=0.1)
    # What was freed is given back: nothing but the weights stays.
    assert after - program == pytest.approx(weights, abs=60 << 20)
