"""Bytes per rank: predicted from the config, measured in a step, side by side.

    predicted/    step.py      the step played with sizes in place of tensors: start here
                  layers.py    what each kind of layer makes torch hold
                  exchange.py  what exchanges do
                  autograd.py  nodes forward and backward
                  tape.py      what is held, and the worst moments
    measured/     step.py      what a real step holds
                  storages.py  on the CPU: every storage from its birth to its death
                  places.py    where in the step a process is
    any_mode.py   both of them, of any mode, in processes started for it
    report.py     memory.json, and tables

predicted and measured share nothing, so that either can show the other wrong.
Imports config, model and ranks.
"""
