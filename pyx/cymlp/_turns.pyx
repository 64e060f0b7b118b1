"""Turns of Python threads on a network: a pass that changes something is alone."""
cimport cython

import os
from threading import get_ident
from time import sleep

# Seconds after which a Python thread that waits for another one's pass looks again.
cdef double WAIT = 0.0005

# Forks between the first process and this one.
cdef int _process = 0


def _forked():
    global _process
    _process += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@cython.final
cdef class Turns:
    """Who is in a pass of one network, and who waits for that."""

    def __cinit__(self):
        self.readers, self.process = [], _process

    cdef int enter(self, bint writes) except -1:
        """Begin a pass.  One that writes is alone; passes in other Python threads wait for it, and it for them."""
        me = get_ident()
        if self.process != _process:
            # This is a forked child: the threads that were in a pass do not exist here.
            self.writer, self.readers, self.waiting_writers, self.waiting_readers, self.process = None, [], 0, 0, _process
        if writes and self.waiting_readers:
            sleep(2 * WAIT)  # let those in who wait, or a fit of many short epochs would keep them out
        while self.writer is not None or (self.readers if writes else self.waiting_writers and me not in self.readers):
            if self.writer == me or me in self.readers:
                raise RuntimeError("this network is at work in this very thread: a signal handler cannot use it")
            self.waiting_writers += writes
            self.waiting_readers += not writes
            try:
                sleep(WAIT)
            finally:
                self.waiting_writers -= writes
                self.waiting_readers -= not writes
        if writes:
            self.writer = me
        else:
            self.readers.append(me)
        return 0

    cdef int leave(self) except -1:
        if self.writer is not None:
            self.writer = None
        else:
            self.readers.remove(get_ident())
        return 0
