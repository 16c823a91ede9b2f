"""The names of the modes, for those who need nothing else."""

FLAGS = {  # of the modes
    "single": "",
    "split": "--split-model",
    "ddp": "--ddp",
    "grid": "--split-model --ddp",
    "hybrid": "--hybrid",
}
MODES = (*FLAGS, "zero1", "fsdp")  # the last two, in tables: a key of the config; torch's own way
