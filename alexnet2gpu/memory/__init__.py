"""Where each rank's memory goes: predicted from the config, measured in a step.

predict.py   the step played with sizes: start here
costs.py     what each kind of layer makes torch hold
graph.py     autograd's part: nodes forward and backward
tape.py      what is held, and the worst moments
measure.py   StepMemory: what a real step holds
ledger.py    on the CPU: every storage from its birth to its death
places.py    where in the step a process is
report.py    both side by side: memory.json and tables

Predicting and measuring share nothing, so that either can show the other wrong.
"""
