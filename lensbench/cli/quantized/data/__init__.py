"""Training data: merge, convert, check, split; and the sets that lensbench has itself.

Examples:

    lensbench data docstrings -o pairs.jsonl

    lensbench data check pairs.jsonl --model smollm2-135m

    lensbench data split pairs.jsonl --train 0.8 --eval 0.1 --test 0.1 -o splits
"""
