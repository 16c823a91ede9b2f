"""The memory of a step, as it is: see memory/__init__.py."""
