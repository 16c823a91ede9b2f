"""The names of the modes, for those who need nothing else."""

FLAGS = {  # of the modes
    "single": "",
    "split": "--split-model",
    "ddp": "--ddp",
    "grid": "--split-model --ddp",
    "hybrid": "--hybrid",
}
MODES = (*FLAGS, "zero1", "fsdp")  # in tables: zero1 is ddp with optim.zero1, fsdp torch's FSDP2
