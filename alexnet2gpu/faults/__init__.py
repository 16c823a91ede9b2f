"""Crashes, signals, hangs and damaged files: one message, on every rank, and nothing lost. Imports ranks.

mistakes.py    a user's mistake: one line, status 2; imports nothing slow
screen.py      what is shown; nobody need be there to see it
signals.py     what announces an end, noted
watch.py       ranks watch each other
processes.py   is another process alive, and where is this one
files.py       files that are whole, and that tell if they were changed
"""
