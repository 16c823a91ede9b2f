"""Ends before the end: each in one line, on every rank, and with nothing lost. Imports ranks.

mistakes.py    a user's mistake: one line, status 2; imports nothing slow
signals.py     SIGTERM and Ctrl-C, noted
watch.py       ranks watch each other
processes.py   is another process alive, and where is this one
files.py       files that are whole, and that tell if they were changed
"""
