"""Images, wherever they come from, and the batches made of them.

images.py        Images: uint8 pixels (N, H, W, C) and labels; their mean and covariance
stores.py        raw pixels or JPEG strings in files, read from a mapping
pack.py          a pack: a folder of photographs made ready for training
photographs.py   a folder of class folders; one photograph, scaled and cropped
growth.py        a part of a pack while it is written, so that a kill loses nothing
workers.py       processes that read photographs
packing.py       making a pack with them
idx.py           the files of MNIST and Fashion-MNIST
sources.py       load_images: a pack, the bundled sample, Fashion-MNIST, CIFAR-10, your own arrays
table.py         what is done to each image in an epoch: order, crop, mirror, colour
crops.py         crops, cut ahead of time by threads
prepare.py       pixels -> network input, on the device
batches.py       which images a step sees; one view or ten of a test image
"""
