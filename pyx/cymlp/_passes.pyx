# Training runs: steps cut into segments, and threads for them.  Only this file and _predictions.pyx open threads; the arithmetic
# is in kernels/.
#
# A training step has two phases.  In the first, every thread carries tiles of rows through all layers forward, the loss, and
# all gradients of inputs back (_stages.pyx).  In the second, every thread owns blocks of weights: a block's gradient is summed over
# the whole minibatch in registers and handed to the optimiser at once (_updates.pyx).  No sum is ever split between threads, so the
# bits do not depend on their number; and nothing but the barriers between phases is waited for.
#
# Runs of small networks are mirrored instead: _mirrored.pyx.
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memset

from cymlp._mirrored cimport mirrored_segment
from cymlp._stages cimport first_phase
from cymlp._storage cimport *
from cymlp._tiles cimport *
from cymlp._updates cimport take_penalty, update_phase

cdef extern from "threads.h" nogil:
    int cymlp_max_threads()
    int cymlp_openmp
    int cymlp_team(int wanted)
    int cymlp_team_size()
    int cymlp_cpu()
    void cymlp_leave_cpu(int cpu)
    void cymlp_meet(char *arrivals, int me, int team, unsigned round)


cdef int team(int wanted) noexcept nogil:
    """How many threads a region gets."""
    return cymlp_team(wanted)


cdef int current_cpu() noexcept nogil:
    return cymlp_cpu()


cdef void leave_cpu(int cpu) noexcept nogil:
    cymlp_leave_cpu(cpu)


cdef int max_threads() noexcept:
    return cymlp_max_threads()


cdef int openmp_version() noexcept:
    return cymlp_openmp


# ---- Segments ----

cdef void run_segment(run_t *run, size_t segment, int slot, bint in_parallel) noexcept nogil:
    """A slot's share of a segment.  Slots meet at a barrier after each, so what one wrote the others see in the next."""
    cdef size_t first_phase_segments = run.stages * run.forward_segments, parts = run.space.parts
    cdef size_t per_part = first_phase_segments + run.phases * run.update_segments
    cdef size_t step = run.first_step + segment // (per_part * parts), part = segment // per_part % parts
    if run.failed:
        return
    if run.space.mirrored:
        mirrored_segment(run, segment, slot, in_parallel)
        return
    if slot == 0 and segment > 0 and segment % (per_part * parts) == 0:
        take_penalty(run, step - 1)
    if step == run.first_step + run.n_steps:
        return
    segment = segment % per_part
    if segment < first_phase_segments:
        first_phase(run, step, part, segment // run.forward_segments, segment % run.forward_segments, slot)
    else:
        segment -= first_phase_segments
        update_phase(run, step, part, segment // run.update_segments, segment % run.update_segments, slot)


cdef size_t segments(const run_t *run) noexcept nogil:
    """Segments of all steps of a run, and one for what is left: the update of a mirrored one, the penalty of others."""
    if run.space.mirrored:
        return run.n_steps * run.forward_segments + 1
    return run.n_steps * run.space.parts * (run.stages * run.forward_segments + run.phases * run.update_segments) + 1


# ---- Work ----

# What an activation, or a parameter, that is passed over counts as, in multiply-adds of a matrix product: a few cycles.
cdef double ELEMENTWISE = 16


cdef double stage_work(const run_t *run, size_t stage) noexcept nogil:
    """Multiply-adds of a stage for a row: products between the layers whose norms cut the pass, forward and back."""
    cdef const net_t *net = run.net
    cdef size_t below = 0  # cuts below a layer
    cdef double found = 0, products, outputs
    for l in range(net.depth):
        products, outputs = <double>net.layers[l].n_in * net.layers[l].n_out, ELEMENTWISE * net.layers[l].n_out
        if stage == below:
            found += products + outputs
        if stage == 2 * net.n_cuts - below:
            found += (products if l else 0) + outputs
        below += net.layers[l].norm.kind == BATCH_NORM
    return found


cdef double part_work(const run_t *run, size_t count) noexcept nogil:
    """Multiply-adds of the first segments of a part of a minibatch."""
    cdef double rows = <double>run.batch / run.space.parts, products = 0, work, done = 0
    cdef size_t kind, pieces, here
    cdef int l
    for l in range(run.net.depth):
        products += <double>run.net.layers[l].n_in * run.net.layers[l].n_out
    for kind in range(run.stages + run.phases):
        if kind < run.stages:
            pieces, work = run.forward_segments, rows * stage_work(run, kind)
        else:
            pieces, work = run.update_segments, (rows if kind == run.stages else ELEMENTWISE / run.space.parts) * products
        here = min(count, pieces)
        done += work * here / pieces
        count -= here
    return done


cdef double work(const run_t *run, size_t count) noexcept nogil:
    """Roughly what the first segments of a run are in multiply-adds, or in steps of a mirrored one; the last is nothing.

    Segments differ: some only pass over activations or parameters.
    """
    cdef size_t per_part = run.stages * run.forward_segments + run.phases * run.update_segments
    count = min(count, segments(run) - 1)
    if run.space.mirrored:
        return <double>count / run.forward_segments
    return count // per_part * part_work(run, per_part) + part_work(run, count % per_part)


# ---- Threads ----

cdef void run_segments(run_t *run, size_t first, size_t last, bint in_parallel) noexcept nogil:
    """Segments first .. last-1 of the steps from run.first_step on: by a thread for each slot, or all by this thread."""
    cdef workspace_t *space = run.space
    cdef int slot = 0, n_slots = space.n_slots, team = cymlp_team(n_slots) if in_parallel else 1, cpu
    cdef size_t s = 0
    cdef unsigned long flush = 0
    if first == 0:
        memset(space.taken, 0, n_slots * CACHE_LINE)
    if team == 1:
        flush = flush_enter()
        for s in range(first, last):
            for slot in range(n_slots):
                run_segment(run, s, slot, False)
        flush_leave(flush)
        space.mirror_is_old = True
        return
    if space.mirrored and space.mirror_is_old:
        workspace_refresh_mirror(space, run.net)
    memset(space.arrivals, 0, n_slots * CACHE_LINE)
    cpu = cymlp_cpu()
    with parallel(num_threads=team):
        cymlp_leave_cpu(cpu)
        flush = flush_enter()
        for s in range(first, last):
            slot = threadid()
            while slot < n_slots:
                run_segment(run, s, slot, True)
                slot = slot + cymlp_team_size()
            cymlp_meet(space.arrivals, threadid(), cymlp_team_size(), s - first + 1)
        flush_leave(flush)
