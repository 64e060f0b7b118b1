/* Any machine: what the compiler's default target has (SSE2 on x86-64, NEON on aarch64). */
#if defined(__x86_64__)
#include <emmintrin.h>
#define INTRINSIC(f) _mm_##f
#endif
#define ISA baseline
#define VECTOR_BYTES 16
#define TILE_NV 2
#define TILE_MR 6
#define ISA_TABLES cymlp_tables_baseline
#include "instantiate.h"
