# Turns of Python threads on a network, for _engine.

cdef class Turns:
    cdef object writer              # the Python thread of a pass that changes something, or None
    cdef list readers               # the Python threads of passes that do not
    cdef int waiting_writers, waiting_readers   # Python threads that wait for their turn
    cdef int process                # which of the processes that were forked one from another these belong to
    cdef int enter(self, bint writes) except -1
    cdef int leave(self) except -1
