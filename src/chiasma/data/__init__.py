"""Tables of images, texts and labels become clean, split, memory-mapped tensors."""
