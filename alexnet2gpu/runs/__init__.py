"""A training run, from before its first step to what others read of it.

    diagnose.py    before: will it learn?
    plan.py        what each rank finds out alone; agreement.py: that all have found the same
    train.py       from start to end
    loop.py        epochs, evaluations, checkpoints
    evaluate.py    errors, of one view or ten, of one network or several
    predict.py     the likeliest classes of photographs
    nonfinite.py   where numbers stop being finite
    out.py         which directory; folder.py: what a run leaves there; writer.py: in the background;
                   metrics.py: its figures, read
    checkpoints/   its state, for any mode from any mode

Imports config, model, ranks, memory, faults and data.
"""
