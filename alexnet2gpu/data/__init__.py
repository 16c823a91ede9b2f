"""Images, wherever they come from, and the batches made of them.

images.py    Images: uint8 pixels (N, H, W, C) and labels
sources.py   load_images: the bundled sample, Fashion-MNIST, CIFAR-10, your own, synthetic ones
idx.py       the files of MNIST and Fashion-MNIST
batches.py   which images a step sees, cropped and mirrored how; pixels to network input
"""
