"""The only layer that touches verl, Ray and TransferQueue."""
