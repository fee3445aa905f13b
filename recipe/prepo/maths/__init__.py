"""Formulas on NumPy arrays that several rules or rooms share. Needs no verl, Ray or torch."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
