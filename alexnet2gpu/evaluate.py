"""Top-1 and top-5 error on held-out images.

Every rank takes part: in a split no rank can run the network alone.
"""

import torch
from torch.nn import functional as F

from alexnet2gpu.data.batches import EvaluationBatches
from alexnet2gpu.model import AlexNet
from alexnet2gpu.precision import computing_in
from alexnet2gpu.ranks import Ranks


@torch.no_grad()
def evaluate(
    model: AlexNet, batches: EvaluationBatches, ranks: Ranks, precision: str
) -> dict[str, float]:
    """Mean loss and errors over all images, the same figures on every rank; each replica sees a
    share of them.

    Returns: test_loss, top1_error and top5_error; errors are fractions of 1.
    """
    model.eval()
    sums = torch.zeros(
        4, dtype=torch.float64, device=ranks.device
    )  # loss, top-1 errors, top-5 errors, images
    for images, labels in batches:
        with computing_in(precision, ranks.device):
            logits = model(images).double()  # (B, classes)
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]  # (B, 5)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack(
            [loss, (~best[:, 0]).sum(), (~best.any(1)).sum(), loss.new_tensor(len(labels))]
        )
    loss, top1, top5, count = ranks.sum_over_replicas(sums).tolist()
    return {"test_loss": loss / count, "top1_error": top1 / count, "top5_error": top5 / count}
