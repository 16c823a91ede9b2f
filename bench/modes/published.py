"""AlexNet on 1 to 8 GPUs, as others have published it, beside the model of ranks/cost.py.

    python -m bench.modes.published

Data parallelism, as many images on each GPU whatever their number. One constant, the bandwidth of a ring, is
fitted to two GPUs, and more are predicted. All that is sent is taken as exposed, as in Theano-MPI, which sums
after backward: with one constant, what a program hides cannot be told from a faster link. (On GCE and EC2 it
was no ring but a parameter server, whose time a GPU does not grow with their number: the model is above.)

Where it misses, what is added grows by 7 to 9 ms with each GPU, and a ring's time hardly grows after four, so
it is nothing between GPUs but something that they share:

    DGX-1, P100   synthetic images, NCCL: ours, a guess: the one process that launches the work of all GPUs;
                  and rings of 2, 4 and 8 do not run over equal links, NVLink joins 8 GPUs as a cube
    V100          the command in the issue reads ImageNet from disk, so this is the rate of decoding JPEG:
                  another machine, tensorflow/benchmarks#359, stops at the same 11,164 and 11,548 images/s
"""

from alexnet2gpu.config.load import load_config
from alexnet2gpu.ranks.cost import Line, sent
from alexnet2gpu.ranks.schedule import Op
from bench.results import table

# GPUs -> milliseconds of a step, of which those of a single GPU are all computed
PUBLISHED = {
    # Theano-MPI's README, 5,120 images, 128 a GPU: 20.50 s, 10.35 + 0.78, 5.13 + 0.54, 2.63 + 0.61
    "Theano-MPI, K80": {1: 512.5, 2: 556.5, 4: 567.0, 8: 648.0},
    # tensorflow/docs, r1 benchmarks.md, synthetic images, 512 a GPU; images/s
    "TensorFlow, GCE K80": {n: 512e3 * n / v for n, v in {1: 656, 2: 1209, 4: 2328, 8: 4640}.items()},
    "TensorFlow, EC2 K80": {n: 512e3 * n / v for n, v in {1: 684, 2: 1244, 4: 2479, 8: 4853}.items()},
    "TensorFlow, DGX-1 P100": {n: 512e3 * n / v for n, v in {1: 2987, 2: 5658, 4: 10509, 8: 17822}.items()},
    # tensorflow/benchmarks#283, fp16, 128 a GPU, ImageNet from disk
    "TensorFlow, V100": {n: 128e3 * n / v for n, v in {1: 5148, 2: 8816, 3: 10350, 4: 11298}.items()},
}


def modelled(published, network):
    """GPUs -> milliseconds of a step, by a ring whose bandwidth two GPUs give."""
    sums = {n: Op("sum", sent("ddp", network, n, n), ranks=n) for n in published if n > 1}
    line = Line(sums[2].amount / (published[2] - published[1]))  # bytes a millisecond
    return {n: published[1] + line.seconds(op) for n, op in sums.items()}


def rows():
    """Machine, GPUs, milliseconds published and modelled, relative error; of more than two GPUs."""
    network = load_config("configs/alexnet.yaml").model
    for machine, published in PUBLISHED.items():
        for n, model in modelled(published, network).items():
            if n > 2:
                yield machine, n, published[n], model, model / published[n] - 1


def main():
    head = ["machine", "GPUs", "ms a step, published", "modelled", "error"]
    lines = ([m, str(n), f"{p:.1f}", f"{ours:.1f}", f"{error:+.1%}"] for m, n, p, ours, error in rows())
    print(table(head, list(lines)))


if __name__ == "__main__":
    main()
