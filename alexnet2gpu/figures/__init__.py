"""A figure a file: its numbers and its drawing, as PNG. matplotlib is the extra `plots`.

    filters.py      what the first layer looks for: the paper's figure 3
    answers.py      the likeliest classes of a few images: figure 4, left; the confusions
    neighbours.py   images that the network finds alike: figure 4, right
    curves.py       loss and errors of runs, step by step
    memory.py       what modes hold at their worst moment; a step from place to place
    plan.py         which mode is the fastest, over batch and bandwidth
    page.py         whether matplotlib is there; what figures share

Imports config, model, memory, data and runs.
"""
