"""Images, wherever they come from, and the batches made of them.

    sources.py   load_images: a pack, the bundled sample, Fashion-MNIST, CIFAR-10, arrays
    idx.py       the files of MNIST and Fashion-MNIST; arrays.py: one's own
    images.py    uint8 pixels (N, H, W, C) and labels; their mean and covariance
    task.py      what of them a trained network's user must know: classes, mean image
    pack/        a folder of photographs, made ready for training once
    epoch.py     what is done to each image in an epoch: order, crop, mirror, colour
    crops.py     crops, cut ahead of time by threads
    prepare.py   pixels -> network input, on the device; prepare_kernel.py on a GPU, in one pass
    on_gpu.py    images that stay on a GPU, where there is room
    batches.py   which images a step sees; one view or ten of a test image

Imports config, model (types of numbers, GPUs), ranks (cores) and faults (files).
"""
