"""Several processes: which rank holds what, and how halves and gradients travel between them.

    modes.py      which rank holds which towers of which replica
    exchange.py   forward and backward between towers. THEN HERE, after model/model.py
    link.py       how halves travel
    overlap.py    an option: compute while they travel
    summed.py     the hybrid's sum of gradients
    zero1.py      an option: momentum shared out over replicas
    regather.py   an option: gather them again instead of keeping them
    gpus.py       which GPU each rank has, and the backend that follows
    torchrun.py   which rank this is; names.py: of the modes
    groups.py     a rank's device and process groups
    assemble.py   a rank's part of the network, and its optimizer
    schedule.py   what a rank does in a step, in order, on paper
    cost.py       how long that takes
    plans.py      modes side by side: which is the fastest
    store.py      the store by which ranks meet
    machine.py    cores, and memory

Imports config and model.
"""
