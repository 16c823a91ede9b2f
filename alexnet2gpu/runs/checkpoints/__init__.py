"""The state of a run, for any mode from any mode.

format.py   what lies on the disk: a directory with one file per tower; a network from it
towers.py   tensors, to files and back
saver.py    writing it in the background, keeping some
resume.py   which one a run goes on from
export.py   one file for others to read
"""
