"""A training run, from before its first step to what others read of it.

    diagnose.py    before: will it learn?
    plan.py        what each rank finds out alone, then train.py: from start to end
    loop.py        epochs, evaluations, checkpoints
    evaluate.py    errors, of one view or ten, of one network or several
    nonfinite.py   where numbers stop being finite
    folder.py      what a run leaves
    checkpoints/   its state, for any mode from any mode

Imports config, model, ranks, memory, faults and data.
"""
