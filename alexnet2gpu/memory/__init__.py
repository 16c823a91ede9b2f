"""Where each rank's memory goes.

measure.py   StepMemory: what one training step holds, in bytes by category
report.py    the table of all ranks, and memory.json
"""
