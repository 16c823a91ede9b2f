"""Measurements on which the pages of docs/ rest: each page's folder measures it and draws its tables anew.

    speed/      docs/speed.md       python -m bench.speed, python -m bench.speed.exchange
    memory/     docs/memory.md      python -m bench.memory
    faults/     docs/faults.md      python -m bench.faults
    fidelity/   docs/fidelity.md    python -m bench.fidelity DIR
    modes/      README.md           python -m bench.modes runs | race | links
    data/       docs/data.md        python -m bench.data.loader DIR, python -m bench.data.pack DIR
    runs/       docs/runs.md        python -m bench.runs DIR
    gpu/        docs/gpu.md         python -m bench.gpu check | measure | train [PHOTOGRAPHS]
    results.py      where results come from, and go to; tables in pages
    turns.py        contenders that take turns
    team.py         contenders' processes, one a rank
    processes.py    processes that stay

From the repository. `python -m bench` does all of it, after the tests.
"""
