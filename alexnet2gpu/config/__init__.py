"""An experiment as data: a YAML file becomes layers, a network, and every key of a run. No torch.

    layers.py    the kinds of layers: their keys, shapes, weights
    network.py   stages of layers; parameters, multiply-adds, traffic
    keys.py      every key of a config file
    checks.py    rules over several keys
    schema.py    YAML -> dataclasses, strictly
    load.py      a file, its base, --set -> Config; Config -> text
    seeds.py     which seed draws what
    text.py      shapes and tables as text

Imports no other room.
"""
