"""Draws as numpy.random.RandomState makes them: the same numbers, the same state afterwards, in a fraction of the time."""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint32_t

import numpy as np
from numpy.random import MT19937, RandomState

cimport numpy as cnp

from cymlp._boundary cimport Array

cnp.import_array()

cdef extern from "numpy/random/bitgen.h" nogil:
    ctypedef struct bitgen_t:
        void *state

cdef extern from "mt19937.h" nogil:
    enum:
        CYMLP_MT_WORDS

    ctypedef struct cymlp_mt19937:
        uint32_t key[624]
        int pos

    void cymlp_mt_shuffle(cymlp_mt19937 *state, size_t n, int64_t *order)


cdef cymlp_mt19937 *state_of(generator) except NULL:
    """Where an MT19937 has its state."""
    return <cymlp_mt19937 *>(<bitgen_t *>PyCapsule_GetPointer(generator.capsule, "BitGenerator")).state


cdef bint is_state_known() except -1:
    """Whether NumPy's MT19937 keeps its state as mt19937.h says.

    The address is part of NumPy's interface, what is there is not.  The attribute `state` would do, but to read and to write it
    takes as long as it takes to shuffle 25 000 elements.
    """
    generator = MT19937(0)
    cdef cymlp_mt19937 *state = state_of(generator)
    cdef Py_ssize_t offset = <char *>state - <char *><void *>generator
    if not 0 <= offset <= type(generator).__basicsize__ - <Py_ssize_t>sizeof(cymlp_mt19937):
        return False  # not even inside the object
    for draws in (0, 1, 1000):
        generator.random_raw(draws, output=False)
        shown = generator.state["state"]
        if state.pos != shown["pos"] or (<char *>state.key)[: sizeof(state.key)] != shown["key"].tobytes():
            return False
    return True


STATE_IS_KNOWN = is_state_known()


cdef bint is_plain(cnp.ndarray array) noexcept:
    """Whether nothing is wrong with an array for sure, in a few nanoseconds; an `Array` takes half a microsecond."""
    return cnp.PyArray_NDIM(array) == 1 and cnp.PyArray_TYPE(array) == cnp.NPY_INT64 and cnp.PyArray_ISCARRAY(array)


def shuffle(order, random_state):
    """Do ``random_state.shuffle(order)``, several times faster where `random_state` draws from an MT19937, as it does by default.

    The GIL is released and the lock of the bit generator is held meanwhile, as by NumPy: threads that share a RandomState get the
    draws one after another.

    Parameters
    ----------
    order : ndarray of int64, shape (n,)
        C-contiguous and writable; shuffled in place.
    random_state : numpy.random.RandomState

    Raises
    ------
    TypeError, ValueError
        For anything else, before a number is drawn.
    """
    if type(order) is not np.ndarray:  # a subclass may have more to shuffle, such as a mask
        raise TypeError(f"order must be a numpy.ndarray; got {type(order).__name__}")
    if not isinstance(random_state, RandomState):
        raise TypeError(f"random_state must be a numpy.random.RandomState; got {type(random_state).__name__}")
    if not is_plain(order):
        Array(order, "order", "i", (-1,), True)
    cdef Py_ssize_t n = cnp.PyArray_DIM(<cnp.ndarray>order, 0)
    cdef int64_t *data = <int64_t *>cnp.PyArray_DATA(<cnp.ndarray>order)
    generator = random_state._bit_generator
    # NumPy's own for subclasses, which may draw differently, and beyond 2^32 elements, where words have 64 bits.
    if not STATE_IS_KNOWN or type(random_state) is not RandomState or type(generator) is not MT19937 or n - 1 > 0xFFFFFFFF:
        random_state.shuffle(order)
        return
    cdef cymlp_mt19937 *state = state_of(generator)
    with generator.lock:
        if not 0 <= state.pos <= CYMLP_MT_WORDS:  # set_state takes any
            raise ValueError(f"random_state must have a state with pos in [0, {CYMLP_MT_WORDS}]; got {state.pos}")
        with nogil:
            cymlp_mt_shuffle(state, n, data)
