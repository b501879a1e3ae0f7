"""Faults and load, counted: kills, full disks, crowds, damaged files, hostile input."""
