/*
 * dispatch.c - what this machine can run, and the floating point state of a thread.
 */
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "kernels.h"

extern const cymlp_kernels *const cymlp_tables_baseline[2];
#if defined(__x86_64__)
extern const cymlp_kernels *const cymlp_tables_avx2[2];
extern const cymlp_kernels *const cymlp_tables_avx512[2];
#endif

int cymlp_best_isa(void)
{
#if defined(__x86_64__)
    /* The compiler's run-time library asks CPUID for the CPU and XCR0 for the operating system's side. */
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl"))
        return CYMLP_ISA_AVX512;
    if (avx2)
        return CYMLP_ISA_AVX2;
#endif
    return CYMLP_ISA_BASELINE;
}

const cymlp_kernels *cymlp_get_kernels(int isa, int is_double)
{
#if defined(__x86_64__)
    if (isa == CYMLP_ISA_AVX512)
        return cymlp_tables_avx512[is_double != 0];
    if (isa == CYMLP_ISA_AVX2)
        return cymlp_tables_avx2[is_double != 0];
#endif
    (void)isa;
    return cymlp_tables_baseline[is_double != 0];
}

/* Numbers below the smallest normal one cost many CPUs over a hundred cycles each; vanishing gradients and Adam's second
 * moments are full of them.  x86-64: bits 15 (flush results) and 6 (read inputs as zero) of MXCSR.  aarch64: bit 24 of FPCR
 * does both. */
unsigned long cymlp_flush_enter(void)
{
#if defined(__x86_64__)
    unsigned long state = _mm_getcsr();
    _mm_setcsr((unsigned)state | 0x8040u);
#elif defined(__aarch64__)
    unsigned long state;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(state));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(state | (1ul << 24)));
#else
    unsigned long state = 0;
#endif
    return state;
}

/* The whole word goes back, exception flags included: a caller that looks at them must not be shown ours. */
void cymlp_flush_leave(unsigned long state)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)state);
#elif defined(__aarch64__)
    __asm__ __volatile__("msr fpcr, %0" : : "r"(state));
#else
    (void)state;
#endif
}
