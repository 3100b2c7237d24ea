"""One TFDS builder a data set. Every builder writes ArrayRecord and needs no TensorFlow."""
