"""The second path: 8-bit inference, retrieval, tracing and adapters over plain Hugging Face models.

It shares no code with the TransformerLens path; the two meet in records.
"""

import logging

# On a CPU with AVX512-BF16, bitsandbytes looks for a package of faster 4-bit kernels as soon as it
# is imported, by this code or by PEFT, and warns that there is none. Its own kernels do the same
# work, and the package would ask the hub for others at every start: no advice for our users.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "pip install kernels" not in str(record.msg)
)
