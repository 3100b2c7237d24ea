"""Data: emotion names, data sets (TFDS builders), preparation and the input pipeline."""
