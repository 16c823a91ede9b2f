"""Every plot, as PNG files. They need matplotlib, which is the extra `plots`.

    memory.py       bars         what each mode holds at its worst moment, and what was measured
                    timeline     what a rank holds in every place of a step
    training.py     curves       loss and errors of runs, step by step
    network.py      filters      what the first layer looks for: the paper's Figure 3
                    predictions  five likeliest classes of a few images: Figure 4, left
                    neighbours   images that the network finds alike: Figure 4, right
                    confusion    which class is taken for which
    page.py         possible     whether matplotlib is installed; what the others share

They draw what they are given: what is computed beforehand is in look.py and in memory/.
"""

from alexnet2gpu.figures.memory import bars, timeline
from alexnet2gpu.figures.network import confusion, filters, neighbours, predictions
from alexnet2gpu.figures.page import possible
from alexnet2gpu.figures.training import curves

__all__ = ["bars", "confusion", "curves", "filters", "neighbours", "possible", "predictions",
           "timeline"]  # fmt: skip
