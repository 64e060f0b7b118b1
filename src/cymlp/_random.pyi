# Types of _random.pyx.

import numpy as np
from numpy.typing import NDArray

STATE_IS_KNOWN: bool

def shuffle(order: NDArray[np.int64], random_state: np.random.RandomState) -> None: ...
