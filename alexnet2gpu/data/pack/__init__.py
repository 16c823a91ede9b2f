"""A folder of photographs, made ready for training once.

layout.py        the files of a pack, and reading them
stores.py        raw pixels or JPEG strings
folder.py        which photographs a folder has, of which classes; labels.py: of flat ones
photograph.py    one of them, scaled and cropped
growth.py        a part of a pack while it is written, so that a kill loses nothing
workers.py       processes that read photographs
packing.py       making a pack with them
reading.py       the images of a folder, packed if need be
"""
