/*
 * peaks.c - what a core can do at best: multiply-adds a second for each instruction set, and bytes of memory a second.
 *
 * Compiled by machine.py where there is a compiler.  A peak is that of 12 independent chains acc = acc * a + b in registers: one
 * instruction each with FMA, a product and a sum without.  Twelve, as a latency of 4 to 5 cycles times two units asks for 8 to 10,
 * and instruction sets before AVX-512 have 16 registers.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CHAINS = 12 };

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define DECLARE(i) vector x##i = start + (real)i;
#define STEP(i) x##i = x##i * a + b;
#define SUM(i) sum += x##i;

/* `rounds` steps of all chains; a and b keep the numbers near 1. */
#define PEAK(NAME, TARGET, REAL, BYTES)                                                                               \
    TARGET static double NAME(size_t rounds)                                                                          \
    {                                                                                                                 \
        typedef REAL real;                                                                                            \
        typedef REAL vector __attribute__((vector_size(BYTES)));                                                      \
        volatile real hidden_a = (real)0.5, hidden_b = (real)0.5;                                                     \
        vector start = {0}, a = start + hidden_a, b = start + hidden_b, sum = start;                                  \
        EACH(DECLARE)                                                                                                 \
        for (size_t r = 0; r < rounds; r++) {                                                                         \
            EACH(STEP)                                                                                                \
        }                                                                                                             \
        EACH(SUM)                                                                                                     \
        return (double)sum[0];                                                                                        \
    }

#define BASELINE
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,fma,prefer-vector-width=512")))

PEAK(peak_float32_baseline, BASELINE, float, 16)
PEAK(peak_float64_baseline, BASELINE, double, 16)
#if defined(__x86_64__)
PEAK(peak_float32_avx2, AVX2, float, 32)
PEAK(peak_float64_avx2, AVX2, double, 32)
PEAK(peak_float32_avx512, AVX512, float, 64)
PEAK(peak_float64_avx512, AVX512, double, 64)
#endif

typedef struct {
    const char *isa;
    int lanes[2];
    double (*peak[2])(size_t);  /* float32, float64 */
} row;

static const row ROWS[] = {
    {"baseline", {4, 2}, {peak_float32_baseline, peak_float64_baseline}},
#if defined(__x86_64__)
    {"avx2", {8, 4}, {peak_float32_avx2, peak_float64_avx2}},
    {"avx512", {16, 8}, {peak_float32_avx512, peak_float64_avx512}},
#endif
};

/* Whether this machine has the instruction set. */
int bench_has(const char *isa)
{
    if (strcmp(isa, "baseline") == 0)
        return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (strcmp(isa, "avx2") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(isa, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma");
#endif
    return 0;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef double vector8 __attribute__((vector_size(64), aligned(64)));

/* What one thread does: work(arg) again and again from a common start until `seconds` have passed. */
typedef struct {
    double (*peak)(size_t);
    int is_triad;
    size_t n;  /* vectors of each array */
    vector8 *x, *y, *z;
    double seconds, rate, sink;
    pthread_barrier_t *barrier;
} task;

/* Four streams, as one alone does not keep the memory busy; half of each cache line is added up, all of it is fetched. */
static double read_all(const task *t)
{
    typedef double vector2 __attribute__((vector_size(16), may_alias));
    vector2 a0 = {0}, a1 = {0}, b0 = {0}, b1 = {0}, c0 = {0}, c1 = {0}, d0 = {0}, d1 = {0};
    size_t step = sizeof(vector8) / sizeof(vector2), quarter = t->n / 4 * step;
    const vector2 *a = (const vector2 *)t->x, *b = a + quarter, *c = b + quarter, *d = c + quarter;
    for (size_t i = 0; i < quarter; i += step) {
        a0 += a[i], a1 += a[i + 2];
        b0 += b[i], b1 += b[i + 2];
        c0 += c[i], c1 += c[i + 2];
        d0 += d[i], d1 += d[i + 2];
    }
    vector2 total = a0 + a1 + b0 + b1 + c0 + c1 + d0 + d1;
    return total[0] + total[1];
}

static double triad(const task *t)
{
    for (size_t i = 0; i < t->n; i++)
        t->x[i] = t->y[i] + 0.5 * t->z[i];
    return t->x[0][0];
}

/* Units of work a second: steps of all chains, or passes over the arrays. */
static void *run(void *argument)
{
    task *t = argument;
    size_t units = 0, block = t->peak ? 20000 : 1;
    if (!t->peak)  /* touches the memory, from the thread that will use it */
        for (size_t i = 0; i < t->n; i++)
            t->x[i] = t->y[i] = t->z[i] = (vector8){1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0};
    pthread_barrier_wait(t->barrier);
    double start = now(), elapsed;
    do {
        t->sink += t->peak ? t->peak(block) : t->is_triad ? triad(t) : read_all(t);
        units += block;
        elapsed = now() - start;
    } while (elapsed < t->seconds);
    t->rate = (double)units / elapsed;
    return NULL;
}

/* Sum of the rates of `threads` threads; negative where memory or threads cannot be had. */
static double run_all(task prototype, int threads)
{
    double total = 0.0;
    pthread_barrier_t barrier;
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    task *tasks = calloc((size_t)threads, sizeof *tasks);
    pthread_barrier_init(&barrier, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        tasks[i] = prototype;
        tasks[i].barrier = &barrier;
        if (!prototype.peak) {
            void *arrays = aligned_alloc(64, 3 * prototype.n * sizeof(vector8));
            if (!arrays)
                return -1.0;
            tasks[i].x = arrays;
            tasks[i].y = tasks[i].x + prototype.n;
            tasks[i].z = tasks[i].y + prototype.n;
        }
    }
    for (int i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, run, &tasks[i]) != 0)
            return -1.0;
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        total += tasks[i].rate;
        free(tasks[i].x);
    }
    pthread_barrier_destroy(&barrier);
    free(ids);
    free(tasks);
    return total;
}

/* Floating point operations a second of `threads` threads together. */
double bench_peak(const char *isa, int is_double, int threads, double seconds)
{
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (strcmp(isa, ROWS[i].isa) == 0 && bench_has(isa)) {
            task prototype = {.peak = ROWS[i].peak[is_double], .seconds = seconds};
            return 2.0 * CHAINS * ROWS[i].lanes[is_double] * run_all(prototype, threads);
        }
    return -1.0;
}

/* Bytes a second: of reading, or of x = y + s z, two reads and a write (what the write reads first is not counted). */
double bench_bandwidth(int is_triad, size_t bytes, int threads, double seconds)
{
    size_t n = bytes / (size_t)threads / (is_triad ? 3 : 1) / sizeof(vector8);
    task prototype = {.is_triad = is_triad, .n = n, .seconds = seconds};
    return (double)(n * sizeof(vector8)) * (is_triad ? 3.0 : 1.0) * run_all(prototype, threads);
}
