/*
 * threads.h - what _passes.pyx asks of OpenMP beside parallel regions, and the repair of forks.  Included by it alone.
 */
#ifndef CYMLP_THREADS_H
#define CYMLP_THREADS_H

#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>

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

/* To be called before the first region; once for the process is enough. */
static void cymlp_guard_fork(void)
{
    static int done;
    if (!__atomic_exchange_n(&done, 1, __ATOMIC_RELAXED) && omp_pause_resource_all && !__kmpc_pause_resource)
        pthread_atfork(cymlp_before_fork, NULL, NULL);
}
#else
enum { cymlp_openmp = 0 };

static int cymlp_max_threads(void)
{
    return 1;
}

static void cymlp_guard_fork(void)
{
}
#endif

#endif
