/*
 * matmul_template.h - the three matrix products of a dense layer on one tile, and the packing that they need.
 *
 * Included once per (real type, instruction set) by instantiate.h, after activation_template.h.  Parameters: REAL, LANES, NAME as
 * there, and
 *   LANE_INDEX   the signed integer as wide as REAL
 *   TILE_NV      vectors across a full panel of weights: 2 or 4
 *   TILE_MR      rows of a tile that is TILE_NV vectors wide: 6
 *
 * One idea carries everything: C[mr x nv vectors] = start + sum over k of broadcast(A(i, k)) * B(k, :), with all of C in registers.
 * Each element of C is one chain of multiply-adds in the order of k, whatever the tile, and long reductions are sums of such chains
 * over blocks of fixed length.  So a result depends neither on how rows are cut into tiles nor on where a tile stands:
 * predict(X)[i] has the bits of predict(X[i:i+1]), and threads change nothing.
 *
 * Shapes.  Per k a tile loads nv vectors and mr broadcasts for mr * nv multiply-adds, and latency (4 cycles, 2 units) asks for at
 * least 8 chains.  With 32 registers (AVX-512) 6 x 4 takes 24 + 4 + 1 of them and loads 10 for 24; with 16 registers (AVX2, SSE2)
 * 6 x 2 takes 12 + 2 + 1 and loads 8 for 12.  A narrower panel (the last of a layer) takes as many rows as keep that many
 * accumulators, at most MAX_MR.
 */

/* Rows of B that are gone through before the next rows of A: 1024 rows of a full panel (256 bytes each in every full-width
 * instantiation for AVX-512, less in others) are 256 KiB, a quarter of a 1 MiB L2 cache; C is read again once per 1024 steps. */
#define DEPTH_BLOCK 1024

/* Weights of more bytes than this are not in the L2 cache when they are used: half of 1 MiB. */
#define STREAM_BYTES (512 * 1024)

/* Examples that weight_gradient sums up before it adds the sum to G and takes the next panel: 128 rows of a full panel of dZ (256
 * bytes with AVX-512) are 32 KiB of a 48 KiB L1 cache, and the columns of A that a tile of 6 rows of weights reads are 8 KiB more.
 * Rounding grows with 128 + rows / 128 rather than with rows. */
#define ROW_BLOCK 128

#define MAX_MR 12
#define ROWS_FOR(form, nv) \
    ((form) == ROW_LIST ? LISTED_MR : TILE_MR * TILE_NV / (nv) < MAX_MR ? TILE_MR * TILE_NV / (nv) : MAX_MR)
#define PANEL (TILE_NV * LANES)
#define PADDED(n) (((n) + LANES - 1) / LANES * LANES)

typedef REAL NAME(vec) __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

#if !defined(__clang__)
typedef LANE_INDEX NAME(lane_index) __attribute__((vector_size(LANES * sizeof(REAL))));
#endif

static const REAL NAME(zeros)[PANEL];

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Where a tile finds A(i, k). */
#define STRIDED 0       /* a[i * a_row + k * a_step]: rows of activations (a_step 1), or columns for weight gradients (a_row 1) */
#define ROW_LIST 1      /* rows[i][offset + k]: the examples of a minibatch, wherever they are */
#define COLUMN_LIST 2   /* rows[k][offset + i]: the same for weight gradients */

/* More rows than this are more pointers than there are registers. */
#define LISTED_MR 6

/* One matrix A, in one of these forms. */
typedef struct {
    const REAL *a;
    size_t a_row, a_step;
    const REAL *const *rows;
    size_t offset;
    const char *next;       /* what a streaming tile asks for, a cache line at every k */
} NAME(left);

/* How far the regions that will be used soon are asked for. */
typedef struct {
    const cymlp_ahead *regions;
    int region;
    size_t done;            /* bytes of this one */
} NAME(cursor);

/*
 * C (mr x nv vectors) = start + sum over k < depth of A(i, k) * B(k, :), the sum first.
 *   B(k, :) = b[k * b_step ...]    a panel of packed weights, or a strip of dZ
 *   start   (mr x nv vectors) with leading dimension start_ld; 0 repeats one row (biases, zeros)
 * form, stream, mr and nv are constants where this is inlined, and every loop over them is unrolled, so that acc lives in
 * registers.
 */
static inline __attribute__((always_inline)) void NAME(tile)(int form, int stream, int mr, int nv, size_t depth,
                                                             const NAME(left) *left, const REAL *b, size_t b_step,
                                                             const REAL *start, size_t start_ld, REAL *c, size_t ldc)
{
    NAME(vec) acc[MAX_MR][TILE_NV];
    const REAL *a = left->a, *row_of[LISTED_MR];
    const size_t a_row = left->a_row, a_step = left->a_step, offset = left->offset;
    const REAL *const *rows = left->rows;
    const char *next = left->next;
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < nv; j++)
            acc[i][j] = (NAME(vec)){ 0 };
    if (form == ROW_LIST)
        UNROLL for (int i = 0; i < mr; i++)
            row_of[i] = rows[i] + offset;
    for (size_t k = 0; k < depth; k++, b += b_step) {
        NAME(vec) row[TILE_NV];
        if (form == COLUMN_LIST)
            a = rows[k] + offset;
        if (stream) {
            __builtin_prefetch(next);
            next += 64;
        }
        UNROLL for (int j = 0; j < nv; j++)
            row[j] = *(const NAME(vec) *)(b + j * LANES);
        UNROLL for (int i = 0; i < mr; i++)
            UNROLL for (int j = 0; j < nv; j++)
                acc[i][j] += (form == ROW_LIST ? row_of[i][k] : form == COLUMN_LIST ? a[i] : a[i * a_row]) * row[j];
        if (form == STRIDED)
            a += a_step;
    }
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < nv; j++)
            *(NAME(vec) *)(c + i * ldc + j * LANES) = *(const NAME(vec) *)(start + i * start_ld + j * LANES) + acc[i][j];
}

typedef void (*NAME(tile_function))(size_t depth, const NAME(left) *left, const REAL *b, size_t b_step, const REAL *start,
                                    size_t start_ld, REAL *c, size_t ldc);

#define TILE(form, mr, nv) \
    static void NAME(tile_##form##_##mr##x##nv)(size_t depth, const NAME(left) *left, const REAL *b, size_t b_step, \
                                                const REAL *start, size_t start_ld, REAL *c, size_t ldc) \
    { NAME(tile)(form, 0, mr, nv, depth, left, b, b_step, start, start_ld, c, ldc); }
#define STREAMING_TILE(form, mr) \
    static void NAME(streaming_tile_##form##_##mr)(size_t depth, const NAME(left) *left, const REAL *b, size_t b_step, \
                                                   const REAL *start, size_t start_ld, REAL *c, size_t ldc) \
    { NAME(tile)(form, 1, mr, TILE_NV, depth, left, b, b_step, start, start_ld, c, ldc); }
#define TILES_6(form, nv) \
    TILE(form, 1, nv) TILE(form, 2, nv) TILE(form, 3, nv) TILE(form, 4, nv) TILE(form, 5, nv) TILE(form, 6, nv)
#define TILES_8(form, nv) TILES_6(form, nv) TILE(form, 7, nv) TILE(form, 8, nv)
#define TILES_12(form, nv) TILES_8(form, nv) TILE(form, 9, nv) TILE(form, 10, nv) TILE(form, 11, nv) TILE(form, 12, nv)
#define NAMED(form, mr, nv) NAME(tile_##form##_##mr##x##nv)
#define NAMES_6(form, nv) \
    NAMED(form, 1, nv), NAMED(form, 2, nv), NAMED(form, 3, nv), NAMED(form, 4, nv), NAMED(form, 5, nv), NAMED(form, 6, nv)
#define NAMES_8(form, nv) NAMES_6(form, nv), NAMED(form, 7, nv), NAMED(form, 8, nv)
#define NAMES_12(form, nv) NAMES_8(form, nv), NAMED(form, 9, nv), NAMED(form, 10, nv), NAMED(form, 11, nv), NAMED(form, 12, nv)

/* [form][nv - 1][mr - 1], with every mr up to ROWS_FOR(form, nv). */
#if TILE_NV == 4
TILES_12(0, 1) TILES_12(0, 2) TILES_8(0, 3) TILES_6(0, 4)
TILES_6(1, 1) TILES_6(1, 2) TILES_6(1, 3) TILES_6(1, 4)
TILES_12(2, 1) TILES_12(2, 2) TILES_8(2, 3) TILES_6(2, 4)
static const NAME(tile_function) NAME(tiles)[3][TILE_NV][MAX_MR] = {
    {{NAMES_12(0, 1)}, {NAMES_12(0, 2)}, {NAMES_8(0, 3)}, {NAMES_6(0, 4)}},
    {{NAMES_6(1, 1)}, {NAMES_6(1, 2)}, {NAMES_6(1, 3)}, {NAMES_6(1, 4)}},
    {{NAMES_12(2, 1)}, {NAMES_12(2, 2)}, {NAMES_8(2, 3)}, {NAMES_6(2, 4)}},
};
#else
TILES_12(0, 1) TILES_6(0, 2) TILES_6(1, 1) TILES_6(1, 2) TILES_12(2, 1) TILES_6(2, 2)
static const NAME(tile_function) NAME(tiles)[3][TILE_NV][MAX_MR] = {
    {{NAMES_12(0, 1)}, {NAMES_6(0, 2)}}, {{NAMES_6(1, 1)}, {NAMES_6(1, 2)}}, {{NAMES_12(2, 1)}, {NAMES_6(2, 2)}},
};
#endif

/* The heights that many rows are cut into, a full panel wide: [form][mr - STREAMING_MR]. */
#define STREAMING_MR 5
#define STREAMING_TILES(form) STREAMING_TILE(form, 5) STREAMING_TILE(form, 6)
#define STREAMING_NAMES(form) { NAME(streaming_tile_##form##_5), NAME(streaming_tile_##form##_6) }
STREAMING_TILES(0) STREAMING_TILES(1)
static const NAME(tile_function) NAME(streaming_tiles)[2][TILE_MR - STREAMING_MR + 1] = {
    STREAMING_NAMES(0), STREAMING_NAMES(1)
};

#undef STREAMING_TILES
#undef STREAMING_NAMES
#undef TILE
#undef STREAMING_TILE
#undef TILES_6
#undef TILES_8
#undef TILES_12
#undef NAMED
#undef NAMES_6
#undef NAMES_8
#undef NAMES_12

/*
 * Ask for the beginnings of some listed rows, while the tile before is worked on: they are anywhere in memory.  The rest of long
 * ones is fetched by the hardware, once it sees a stream.
 */
#define EXPECTED_BYTES 512

static void NAME(expect_rows)(const REAL *const *rows, size_t count, size_t offset, size_t depth)
{
    const size_t bytes = depth * sizeof(REAL) < EXPECTED_BYTES ? depth * sizeof(REAL) : EXPECTED_BYTES;
    for (size_t i = 0; i < count; i++)
        for (size_t at = 0; at < bytes; at += 64)
            __builtin_prefetch((const char *)(rows[i] + offset) + at);
}

#undef EXPECTED_BYTES

/*
 * C (rows x width) = start + A B over `depth`, for one panel.  Rows are shared out evenly over as few tiles as they need: 64 rows
 * are 9 tiles of 6 and 2 of 5, as a last tile of 4 would wait on latency.
 *
 * Tiles of full size ask for what is ahead, a line at every k, until all of it is asked for.
 */
static void NAME(panel_product)(int form, size_t rows, size_t depth, size_t width, NAME(left) left, const REAL *b, size_t b_step,
                                const REAL *start, size_t start_ld, REAL *c, size_t ldc, NAME(cursor) *ahead)
{
    size_t nv = width / LANES, most = ROWS_FOR(form, nv), tiles = (rows + most - 1) / most;
    for (size_t t = 0; t < tiles; t++) {
        size_t mr = rows / tiles + (t < rows % tiles);
        if (form == ROW_LIST && t + 1 < tiles)
            NAME(expect_rows)(left.rows + mr, rows / tiles + (t + 1 < rows % tiles), left.offset, depth);
        if (form != COLUMN_LIST && nv == TILE_NV && mr >= STREAMING_MR && ahead->regions && ahead->region < ahead->regions->count) {
            left.next = (const char *)ahead->regions->at[ahead->region] + ahead->done;
            NAME(streaming_tiles)[form][mr - STREAMING_MR](depth, &left, b, b_step, start, start_ld, c, ldc);
            ahead->done += depth * 64;
            if (ahead->done >= ahead->regions->bytes[ahead->region]) {
                ahead->region++;
                ahead->done = 0;
            }
        } else {
            NAME(tiles)[form][nv - 1][mr - 1](depth, &left, b, b_step, start, start_ld, c, ldc);
        }
        if (form == STRIDED)
            left.a += mr * left.a_row;
        else if (form == ROW_LIST)
            left.rows += mr;
        else
            left.offset += mr;
        start += mr * start_ld;
        c += mr * ldc;
    }
}

/*
 * C (rows x width) = bias + X B for one panel B (depth x width), in blocks of depth.  Where `stream` is true B is part of a matrix
 * that is not in the L2 cache, and while one block of it is worked on, the one that follows in memory is asked for: the first tile
 * that uses it would else wait.
 */
static void NAME(rows_times_panel)(int stream, size_t rows, size_t depth, size_t width, const REAL *x, size_t ldx,
                                   const REAL *const *list, const REAL *b, const REAL *bias, REAL *c, size_t ldc,
                                   NAME(cursor) *ahead)
{
    for (size_t k = 0; k < depth; k += DEPTH_BLOCK) {
        size_t count = depth - k < DEPTH_BLOCK ? depth - k : DEPTH_BLOCK, bytes = count * width * sizeof(REAL);
        NAME(left) left = { .a = x + k, .a_row = ldx, .a_step = 1, .rows = list, .offset = k };
        const cymlp_ahead following = { 1, { b + (k + count) * width }, { bytes } };
        NAME(cursor) next = { &following, 0, 0 };
        NAME(panel_product)(list ? ROW_LIST : STRIDED, rows, count, width, left, b + k * width, width, k ? c : bias, k ? ldc : 0,
                            c, ldc, stream ? &next : ahead);
    }
}

static void NAME(dense_forward)(size_t rows, size_t n_in, size_t n_out, const void *X, size_t ldx, const void *const *list,
                                const void *W, const void *b, const cymlp_act *act, void *A, size_t lda, void *D,
                                const cymlp_ahead *ahead)
{
    const size_t padded = PADDED(n_out);
    const int stream = n_in * padded * sizeof(REAL) > STREAM_BYTES;
    NAME(cursor) cursor = { ahead, 0, 0 };
    for (size_t n = 0; n < padded; n += PANEL) {
        size_t width = padded - n < PANEL ? padded - n : PANEL;
        const REAL *bias = b ? (const REAL *)b + n : NAME(zeros);
        REAL *panel = (REAL *)A + n;
        NAME(rows_times_panel)(stream && n + PANEL < padded, rows, n_in, width, X, ldx, (const REAL *const *)list,
                               (const REAL *)W + n * n_in, bias, panel, lda, &cursor);
        if (act->kind != CYMLP_SOFTMAX && (act->kind != CYMLP_IDENTITY || D))
            NAME(activate)(act, rows, width, panel, lda, D ? (REAL *)D + n : NULL);
    }
}

static void NAME(dense_backward)(size_t rows, size_t n_in, size_t n_out, const void *dZ, size_t lddz, const void *Wt,
                                 const cymlp_act *act_in, const void *A_in, const void *D_in, size_t lda_in, void *dZ_in,
                                 size_t lddz_in, const cymlp_ahead *ahead)
{
    const size_t padded = PADDED(n_in);
    const int stream = n_out * padded * sizeof(REAL) > STREAM_BYTES;
    NAME(cursor) cursor = { ahead, 0, 0 };
    for (size_t k = 0; k < padded; k += PANEL) {
        size_t width = padded - k < PANEL ? padded - k : PANEL;
        REAL *panel = (REAL *)dZ_in + k;
        NAME(rows_times_panel)(stream && k + PANEL < padded, rows, n_out, width, dZ, lddz, NULL, (const REAL *)Wt + k * n_out,
                               NAME(zeros), panel, lddz_in, &cursor);
        NAME(activation_backward)(act_in, rows, width, (const REAL *)A_in + k, D_in ? (const REAL *)D_in + k : NULL, lda_in, panel,
                                  lddz_in);
    }
}

/*
 * G (count x LANES) = or += A^T dZ for so few columns that most of a vector would be padding: the product is turned round: rows of
 * A are vectors then, and the elements of dZ are broadcast.  The chains are the same.
 */
#define FEW_COLUMNS (LANES < 4 ? 1 : LANES / 4)

static void NAME(few_columns)(size_t rows, size_t count, size_t columns, const REAL *a, size_t lda, const REAL *dz, size_t lddz,
                              REAL *g, int add)
{
    REAL turned[FEW_COLUMNS][PANEL];
    NAME(cursor) nothing = { NULL, 0, 0 };
    for (size_t k = 0; k < count; k += PANEL) {
        const size_t here = count - k < PANEL ? count - k : PANEL;
        const NAME(left) left = { .a = dz, .a_row = 1, .a_step = lddz };
        NAME(panel_product)(STRIDED, columns, rows, PADDED(here), left, a + k, lda, NAME(zeros), 0, turned[0], PANEL, &nothing);
        for (size_t i = k; i < k + here; i++) {
            if (!add)
                *(NAME(vec) *)(g + i * LANES) = (NAME(vec)){ 0 };
            for (size_t j = 0; j < columns; j++)
                g[i * LANES + j] += turned[j][i - k];
        }
    }
}

static void NAME(weight_gradient)(size_t rows, size_t count, size_t width, const void *A, size_t lda, const void *const *list,
                                  size_t k0, const void *dZ, size_t lddz, void *G, size_t panel_stride, int add,
                                  const cymlp_ahead *ahead)
{
    const REAL *a = A, *dz = dZ;
    NAME(cursor) cursor = { ahead, 0, 0 };
    size_t r = 0;
    do {
        size_t depth = rows - r < ROW_BLOCK ? rows - r : ROW_BLOCK;
        NAME(left) left = { .offset = k0 };
        REAL *g = G;
        if (!list && width <= FEW_COLUMNS) {
            NAME(few_columns)(depth, count, width, a + r * lda + k0, lda, dz + r * lddz, lddz, g, add);
            r += depth;
            add = 1;
            continue;
        }
        if (list) {
            left.rows = (const REAL *const *)list + r;
        } else {
            left.a = a + r * lda + k0;
            left.a_row = 1;
            left.a_step = lda;
        }
        for (size_t n = 0; n < width; n += PANEL, g += panel_stride) {
            size_t panel = width - n < PANEL ? PADDED(width - n) : PANEL;
            NAME(panel_product)(list ? COLUMN_LIST : STRIDED, count, depth, panel, left, dz + r * lddz + n, lddz,
                                add ? g : NAME(zeros), add ? panel : 0, g, panel, &cursor);
        }
        r += depth;
        add = 1;
    } while (r < rows);
}

/* One panel's columns of bias_gradient: a chain of sums for each vector, nv of them side by side. */
static inline __attribute__((always_inline)) void NAME(column_sums)(int nv, size_t rows, const REAL *dz, size_t lddz, REAL *g,
                                                                    int add)
{
    NAME(vec) total[TILE_NV], sum[TILE_NV];
    UNROLL for (int j = 0; j < nv; j++)
        total[j] = add ? *(const NAME(vec) *)(g + j * LANES) : (NAME(vec)){ 0 };
    for (size_t r = 0; r < rows; r += ROW_BLOCK) {
        const size_t last = rows - r < ROW_BLOCK ? rows : r + ROW_BLOCK;
        UNROLL for (int j = 0; j < nv; j++)
            sum[j] = (NAME(vec)){ 0 };
        for (size_t i = r; i < last; i++)
            UNROLL for (int j = 0; j < nv; j++)
                sum[j] += *(const NAME(vec) *)(dz + i * lddz + j * LANES);
        UNROLL for (int j = 0; j < nv; j++)
            total[j] += sum[j];
    }
    UNROLL for (int j = 0; j < nv; j++)
        *(NAME(vec) *)(g + j * LANES) = total[j];
}

static void NAME(bias_gradient)(size_t rows, size_t width, const void *dZ, size_t lddz, void *g, int add)
{
    size_t j = 0;
    for (; j + PANEL <= width; j += PANEL)
        NAME(column_sums)(TILE_NV, rows, (const REAL *)dZ + j, lddz, (REAL *)g + j, add);
    for (; j < width; j += LANES)
        NAME(column_sums)(1, rows, (const REAL *)dZ + j, lddz, (REAL *)g + j, add);
}

/* ---- Packing (the layout is described in kernels.h) ---- */

static void NAME(pack)(size_t n_in, size_t n_out, const void *W, void *packed)
{
    const REAL *from = W;
    REAL *to = packed;
    for (size_t n = 0; n < n_out; n += PANEL) {
        size_t real = n_out - n < PANEL ? n_out - n : PANEL, width = PADDED(real);
        for (size_t k = 0; k < n_in; k++, to += width) {
            memcpy(to, from + k * n_out + n, real * sizeof(REAL));
            memset(to + real, 0, (width - real) * sizeof(REAL));
        }
    }
}

static void NAME(unpack)(size_t n_in, size_t n_out, const void *packed, void *W)
{
    const REAL *from = packed;
    REAL *to = W;
    for (size_t n = 0; n < n_out; n += PANEL) {
        size_t real = n_out - n < PANEL ? n_out - n : PANEL, width = PADDED(real);
        for (size_t k = 0; k < n_in; k++, from += width)
            memcpy(to + k * n_out + n, from, real * sizeof(REAL));
    }
}

/*
 * Transpose a square of LANES vectors in registers (Eklundh's method): for d = 1, 2, 4, ... swap, in every pair of rows i and i + d
 * with bit d of i clear, the elements of row i that have bit d set with those of row i + d that have it clear.
 */
#define LOW(d, p) ((p) & (d) ? LANES + (p) - (d) : (p))
#define HIGH(d, p) ((p) & (d) ? LANES + (p) : (p) + (d))
#define INDEX_2(f, d, p) f(d, p), f(d, p + 1)
#define INDEX_4(f, d, p) INDEX_2(f, d, p), INDEX_2(f, d, p + 2)
#define INDEX_8(f, d, p) INDEX_4(f, d, p), INDEX_4(f, d, p + 4)
#define INDEX_16(f, d, p) INDEX_8(f, d, p), INDEX_8(f, d, p + 8)
#if LANES == 16
#define INDEX(f, d) INDEX_16(f, d, 0)
#elif LANES == 8
#define INDEX(f, d) INDEX_8(f, d, 0)
#elif LANES == 4
#define INDEX(f, d) INDEX_4(f, d, 0)
#else
#define INDEX(f, d) INDEX_2(f, d, 0)
#endif
#if defined(__clang__)
#define SHUFFLE(a, b, f, d) __builtin_shufflevector(a, b, INDEX(f, d))
#else
#define SHUFFLE(a, b, f, d) __builtin_shuffle(a, b, (NAME(lane_index)){ INDEX(f, d) })
#endif
#define SWAP(d)                                           \
    if (LANES > (d))                                      \
        UNROLL for (int i = 0; i < LANES; i++)            \
            if (!(i & (d))) {                             \
                NAME(vec) a = r[i], b = r[(i + (d)) % LANES]; \
                r[i] = SHUFFLE(a, b, LOW, d % LANES);     \
                r[(i + (d)) % LANES] = SHUFFLE(a, b, HIGH, d % LANES); \
            }

static inline __attribute__((always_inline)) void NAME(transpose_square)(NAME(vec) *r)
{
    SWAP(1)
    SWAP(2)
    SWAP(4)
    SWAP(8)
}

static void NAME(repack_transposed)(size_t n_in, size_t n_out, size_t k0, size_t rows, size_t n0, const void *packed,
                                    void *transposed)
{
    size_t real = n_out - n0 < PANEL ? n_out - n0 : PANEL, width = PADDED(real);
    const REAL *from = (const REAL *)packed + n0 * n_in;
    for (size_t k = k0; k < k0 + rows; k += LANES) {
        size_t panel = k / PANEL * PANEL, panel_width = PADDED(n_in) - panel < PANEL ? PADDED(n_in) - panel : PANEL;
        REAL *to = (REAL *)transposed + panel * n_out + n0 * panel_width + (k - panel);
        for (size_t j = 0; j < real; j += LANES) {
            NAME(vec) square[LANES];
            for (size_t i = 0; i < LANES; i++)
                square[i] = k + i < k0 + rows ? *(const NAME(vec) *)(from + (k + i) * width + j) : (NAME(vec)){0};
            NAME(transpose_square)(square);
            for (size_t i = 0; i < LANES && j + i < real; i++)
                *(NAME(vec) *)(to + (j + i) * panel_width) = square[i];
        }
    }
}

#undef LOW
#undef HIGH
#undef INDEX
#undef INDEX_2
#undef INDEX_4
#undef INDEX_8
#undef INDEX_16
#undef SHUFFLE
#undef SWAP
#undef ROW_BLOCK
#undef MAX_MR
#undef ROWS_FOR
#undef STRIDED
#undef ROW_LIST
#undef COLUMN_LIST
#undef LISTED_MR
