"""Train a small model of your own from random weights, and open it up at every step.

Without train or analyse it asks which, or both.

Examples:

    lensbench pico

    lensbench pico train -o runs/pico

    lensbench pico analyse runs/pico -o runs/pico-analysis
"""
