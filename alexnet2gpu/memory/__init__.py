"""Bytes per rank: predicted from a step that is played without data, and measured in a real one.

    any_module.py   estimate(), of any module: start here
    predict.py      of a config, in any mode
    play.py         how a step is played
    ledger.py       every storage, from its making to its end
    places.py       where in the step a process is
    scratch.py      what operations take and give back: the one table that is written by hand
    convolutions.py that of convolutions
    stand_ins.py    links, buckets and groups without other ranks
    caching.py      what a GPU's allocator makes of it
    measured.py     what torch's allocator gives in a real step: nothing of the above has a part in it
    any_mode.py     that in any mode, in processes started for it
    plan.py         which rows a table has
    pieces.py       a step at any batch, from a few; explore.py: of all modes, for a page to play with
    report.py       memory.json; tables.py: rows and layers as text

Imports config, model and ranks.
"""

from alexnet2gpu.memory.any_module import How, estimate

__all__ = ["How", "estimate"]
