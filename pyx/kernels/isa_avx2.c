/* x86-64 with AVX2 and FMA (Haswell, Zen and later); nothing on other machines. */
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define ISA avx2
#define VECTOR_BYTES 32
#define INTRINSIC(f) _mm256_##f
#define TILE_NV 2
#define TILE_MR 6
#define ISA_TABLES cymlp_tables_avx2
#include "instantiate.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int cymlp_no_avx2;
#endif
