/* x86-64 with AVX-512 F, BW, DQ, VL (Skylake-X, Zen 4 and later); nothing on other machines. */
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#define ISA avx512
#define VECTOR_BYTES 64
#define INTRINSIC(f) _mm512_##f
#define MASK_INTRINSICS
#define TILE_NV 4
#define TILE_MR 6
#define ISA_TABLES cymlp_tables_avx512
#include "instantiate.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int cymlp_no_avx512;
#endif
