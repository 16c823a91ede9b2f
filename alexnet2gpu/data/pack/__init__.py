"""A folder of photographs, made ready for training once.

layout.py        the files of a pack, and reading them
stores.py        raw pixels or JPEG strings
photographs.py   a folder of class folders; one photograph, scaled and cropped
growth.py        a part of a pack while it is written, so that a kill loses nothing
workers.py       processes that read photographs
packing.py       making a pack with them
"""
