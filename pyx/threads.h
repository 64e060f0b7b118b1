/*
 * threads.h - what _passes.pyx asks of OpenMP beside parallel regions, and the repair of forks.  Included by it alone.
 */
#ifndef CYMLP_THREADS_H
#define CYMLP_THREADS_H

#include <stddef.h>

#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#include <sched.h>

/* No region has more threads than this; there can be more shares of the work. */
#define CYMLP_MAX_TEAM 256

enum { cymlp_openmp = _OPENMP };

static int cymlp_max_threads(void)
{
    return omp_in_parallel() ? 1 : omp_get_max_threads();
}

/*
 * GNU's OpenMP keeps a pool of sleeping threads for each thread that opened a region.  A forked child inherits the bookkeeping
 * but not the threads, and its first region waits for them for ever.  omp_pause_resource_all (OpenMP 5) lets the pool of the
 * forking thread go before the fork; parent and child then start new ones.  GCC before 9 lacks it, hence weak.  LLVM's and
 * Intel's runtimes, which __kmpc_pause_resource tells apart, look after forks by themselves.
 */
extern int omp_pause_resource_all(omp_pause_resource_t kind) __attribute__((weak));
extern int __kmpc_pause_resource(void) __attribute__((weak));

static void cymlp_before_fork(void)
{
    omp_pause_resource_all(omp_pause_soft); /* inside a region it fails, without harm */
}

static void cymlp_guard_fork(void)
{
    static int done;
    if (!__atomic_exchange_n(&done, 1, __ATOMIC_RELAXED) && omp_pause_resource_all && !__kmpc_pause_resource)
        pthread_atfork(cymlp_before_fork, NULL, NULL);
}

static void *cymlp_wait(void *gate)
{
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

/*
 * How many of the threads that are wanted for a region can be had, at least 1.  GNU's OpenMP ends the process where it cannot start
 * a thread (a limit of memory or of processes), so a larger team than any before is tried out first, with one thread to spare.
 */
static int cymlp_team(int wanted)
{
    static int had = 1;
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_t threads[CYMLP_MAX_TEAM];
    int started = 0;
    cymlp_guard_fork();
    if (wanted > CYMLP_MAX_TEAM)
        wanted = CYMLP_MAX_TEAM;
    if (wanted <= __atomic_load_n(&had, __ATOMIC_RELAXED))
        return wanted;
    pthread_mutex_lock(&gate);
    while (started < wanted && pthread_create(&threads[started], NULL, cymlp_wait, &gate) == 0)
        started++;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (started == wanted)
        __atomic_store_n(&had, wanted, __ATOMIC_RELAXED);
    return started > 1 ? started : 1;
}

static int cymlp_team_size(void)
{
    return omp_get_num_threads();
}

/*
 * Linux may start or wake a thread on the very CPU of the one that needs it, and takes some milliseconds to move one of them, in
 * which they wait for each other at every barrier.  cymlp_cpu tells the first thread's CPU before a region; in it the others leave
 * that CPU, if they are allowed on another one.  What they are allowed stays as it was.
 */
#if defined(__linux__)
static int cymlp_cpu(void)
{
    return sched_getcpu();
}

static void cymlp_leave_cpu(int cpu)
{
    cpu_set_t allowed, others;
    if (omp_get_thread_num() == 0 || cpu < 0 || sched_getcpu() != cpu || sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    others = allowed;
    CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others) && !sched_setaffinity(0, sizeof others, &others))
        sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
static int cymlp_cpu(void)
{
    return -1;
}

static void cymlp_leave_cpu(int cpu)
{
    (void)cpu;
}
#endif

/* Times that a thread looks for the others before it offers its core to somebody else: some tens of microseconds. */
#define CYMLP_SPINS 2000

/*
 * Meeting number `round` (1, 2, ...) of a team: returns when all are there.  Each thread writes a cache line of its own, zero at
 * first, and reads those of the others, so that for two threads a meeting costs one line's way from core to core.
 */
static void cymlp_meet(char *arrivals, int me, int team, unsigned round)
{
    __atomic_store_n((unsigned *)(arrivals + 64 * me), round, __ATOMIC_RELEASE);
    for (int other = 0; other < team; other++) {
        const unsigned *arrival = (const unsigned *)(arrivals + 64 * other);
        for (int spins = 0; (int)(__atomic_load_n(arrival, __ATOMIC_ACQUIRE) - round) < 0; spins++) {
            if (spins < CYMLP_SPINS) {
#if defined(__x86_64__)
                __builtin_ia32_pause();
#endif
            } else {
                sched_yield();
            }
        }
    }
}
#else
enum { cymlp_openmp = 0 };

static int cymlp_max_threads(void)
{
    return 1;
}

static int cymlp_team(int wanted)
{
    (void)wanted;
    return 1;
}

static int cymlp_team_size(void)
{
    return 1;
}

static int cymlp_cpu(void)
{
    return -1;
}

static void cymlp_leave_cpu(int cpu)
{
    (void)cpu;
}

static void cymlp_meet(char *arrivals, int me, int team, unsigned round)
{
    (void)arrivals, (void)me, (void)team, (void)round;
}
#endif

#endif
