"""The memory of a step, from its config alone: see memory/__init__.py."""
