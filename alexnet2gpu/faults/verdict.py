"""Why ranks end, said once: by the first that knows, under one key of the store by which they meet."""

import contextlib
import json
import os

from alexnet2gpu.ranks.store import store

VERDICT = "verdict"


def tell(status: int) -> None:
    """Let ranks that are waiting for this one end, before it has joined them: mistakes.py."""
    with contextlib.suppress(RuntimeError, ValueError):
        mine = json.dumps({"rank": int(os.environ["RANK"]), "status": status})
        store().compare_set(VERDICT, "", mine)
