# One thread, or all: a choice by measurement, for _engine.
#
# Two threads meet at one or two barriers a step.  Where another process has taken one of the cores, each meeting waits for the
# operating system to give it back, which can cost a thousand steps' time.  So passes measure; results do not depend on the choice.

# The slower way is tried again after so many times what the last trial took: at first soon, as threads that have just been started
# may share a core for some milliseconds; twice as late after each trial that changed nothing.
cdef enum:
    SOON = 4
    LATE = 100

# Pieces of work in a trial, and their length where it can be chosen; one that takes more than a long call counts twice.
cdef enum:
    TRIAL_CALLS = 4
    TRIAL_MICROSECONDS = 1000
    LONG_CALL_MICROSECONDS = 2000


cdef struct choice_t:
    double[2] pace              # seconds for a unit of work, [by one thread, by all]; 0: not known yet
    double since_trial          # seconds spent the faster way since the other was tried
    double price, patience      # seconds that the last trial took, and how many times as many are to pass before the next
    int calls                   # pieces of work of the trial that is going on, or 0
    double best                 # pace of the best of them
    double spent                # seconds for all of them


cdef inline bint in_parallel(const choice_t *choice) noexcept:
    """Whether the next piece of work takes all threads."""
    cdef bint faster = choice.pace[1] < choice.pace[0]
    if choice.pace[0] == 0 or choice.pace[1] == 0:
        return choice.pace[1] == 0
    return faster != (choice.calls > 0 or choice.since_trial > choice.patience * choice.price)


cdef inline bint is_trial(const choice_t *choice, bint parallel) noexcept:
    """Whether a piece of work is to tell whether the slower way is still the slower."""
    return choice.pace[0] > 0 and choice.pace[1] > 0 and parallel != (choice.pace[1] < choice.pace[0])


cdef inline void learn(choice_t *choice, bint parallel, double work, double seconds) noexcept:
    """Take down what a piece of work cost."""
    cdef double pace = seconds / work
    cdef bint trial = is_trial(choice, parallel), decided
    if choice.pace[parallel] > 0 and not trial:
        choice.since_trial += seconds
        # A short piece that was held up by something else on the machine says little, several in a row say much.
        if 1e6 * choice.pace[parallel] * work < LONG_CALL_MICROSECONDS:
            pace = (choice.pace[parallel] + min(pace, 2 * choice.pace[parallel])) / 2
        choice.pace[parallel] = (choice.pace[parallel] + pace) / 2
        return
    # The first pieces wait for memory, or for threads to be started or woken.
    choice.best = pace if choice.calls == 0 else min(choice.best, pace)
    choice.calls += 1 if 1e6 * seconds < LONG_CALL_MICROSECONDS else 2
    choice.spent += seconds
    decided = trial and (pace < choice.pace[not parallel] or choice.calls > 1 and pace > 4 * choice.pace[not parallel])
    if decided or choice.calls >= TRIAL_CALLS:
        choice.patience = min(2 * choice.patience, <double>LATE) if trial and choice.best > choice.pace[not parallel] else SOON
        choice.pace[parallel], choice.price = choice.best, choice.spent
        choice.calls, choice.spent, choice.since_trial = 0, 0, 0
