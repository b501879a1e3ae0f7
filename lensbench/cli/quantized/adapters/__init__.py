"""Adapters: show, diff, merge.

Examples:

    lensbench adapters show runs/adapter

    lensbench adapters diff runs/adapter runs/other

    lensbench adapters merge smollm2-135m runs/adapter -o runs/merged
"""
