/*
 * softmax_template.h - the softmax, along rows.
 *
 * A template, included after activation_template.h with the same parameters; defines NAME(softmax), and what loss_template.h needs.
 * A row alone is a chain of maximum, exponentials, sum and quotient, each waiting for the one before.  So blocks of rows go through
 * it together.  A row gives the same bits in any block.
 *
 * Rows of at most FEW reals lie across: ROWS of one column in the lanes of vectors, without padding.  Wider ones lie along, and
 * only what is summed along them is put across, for LANES of them.  As each column costs a store for every row on both ways, more
 * than 8 would be slower.
 */
#define FEW 8
#define ROWS 16

/* columns[j][i] is z[i][j], exponentials then, of at most ROWS rows; those that are missing are zeros. */
typedef struct {
    REAL columns[FEW][ROWS], max[ROWS], total[ROWS];
} NAME(across);

INLINE void NAME(exponentials_across)(size_t count, size_t n, const REAL *z, size_t ldz, NAME(across) *x)
{
    if (count < ROWS)
        memset(x->columns, 0, n * sizeof *x->columns);
    for (size_t i = 0; i < count; i++) {
        const REAL *row = z + i * ldz;
        for (size_t j = 0; j < n; j++) {
            __asm__("" : "+r"(j)); /* or the compiler would scatter, which is slower */
            x->columns[j][i] = row[j];
        }
    }
    for (size_t i = 0; i < ROWS && i < PADDED(count); i += LANES) {
        VECTOR max = *(VECTOR *)(x->columns[0] + i), total = { 0 };
        for (size_t j = 1; j < n; j++)
            max = NAME(larger)(max, *(VECTOR *)(x->columns[j] + i));
        for (size_t j = 0; j < n; j++) {
            VECTOR *column = (VECTOR *)(x->columns[j] + i);
            *column = NAME(exp_negative)(*column - max);
            total += *column;
        }
        *(VECTOR *)(x->max + i) = max;
        *(VECTOR *)(x->total + i) = total;
    }
}

/* The way back. */
INLINE void NAME(lay_along)(size_t count, size_t n, const NAME(across) *x, REAL *z, size_t ldz)
{
    const size_t width = PADDED(n);
    for (size_t i = 0; i < count; i++) {
        REAL *row = z + i * ldz;
        for (size_t j = 0; j < width; j += LANES)
            *(VECTOR *)(row + j) = IN_LANES(0);
        for (size_t j = 0; j < n; j++) {
            __asm__("" : "+r"(j)); /* or it would gather */
            row[j] = x->columns[j][i];
        }
    }
}

INLINE void NAME(softmax_across)(size_t count, size_t n, REAL *z, size_t ldz)
{
    NAME(across) x;
    NAME(exponentials_across)(count, n, z, ldz, &x);
    for (size_t i = 0; i < ROWS && i < PADDED(count); i += LANES) {
        const VECTOR inverse = 1 / *(VECTOR *)(x.total + i);
        for (size_t j = 0; j < n; j++)
            *(VECTOR *)(x.columns[j] + i) *= inverse;
    }
    NAME(lay_along)(count, n, &x, z, ldz);
}

/* The largest z, and the sum of exp(z - max z), of each row in its lane. */
typedef struct {
    VECTOR max, total;
} NAME(tops);

/*
 * At most LANES rows of n reals (width: n padded, a constant where it is LANES) become exp(z - max z), with zeros behind unless
 * they hold NaN.
 */
INLINE NAME(tops) NAME(exponentials_along)(size_t count, size_t n, size_t width, REAL *z, size_t ldz)
{
    NAME(tops) tops;
    VECTOR rows[LANES];
    REAL most[LANES];
    for (size_t i = count; i < LANES; i++)
        rows[i] = IN_LANES(0);
    for (size_t i = 0; i < count; i++) {
        REAL *row = z + i * ldz;
        NAME(fill_padding)(n, width, row, -CONSTANT(__builtin_inff(), __builtin_inf()));
        VECTOR top = *(VECTOR *)row;
        for (size_t j = LANES; j < width; j += LANES)
            top = NAME(larger)(top, *(VECTOR *)(row + j));
        rows[i] = top;
    }
    if (count == 1)
        FOLD(rows[0], NAME(larger));
    else
        COMBINE(rows, NAME(larger))
    tops.max = rows[0];
    *(VECTOR *)most = tops.max;
    for (size_t i = 0; i < count; i++) {
        REAL *row = z + i * ldz;
        VECTOR sum = { 0 };
        for (size_t j = 0; j < width; j += LANES) {
            const VECTOR e = NAME(exp_negative)(*(VECTOR *)(row + j) - most[i]);
            *(VECTOR *)(row + j) = e;
            sum += e;
        }
        rows[i] = sum;
    }
    if (count == 1)
        FOLD(rows[0], NAME(plus));
    else
        COMBINE(rows, NAME(plus))
    tops.total = rows[0];
    return tops;
}

/* Every row times its lane of `factor`, with zeros behind, also where it holds NaN. */
INLINE void NAME(scale_rows)(size_t count, size_t n, size_t width, REAL *z, size_t ldz, VECTOR factor)
{
    REAL factors[LANES];
    *(VECTOR *)factors = factor;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < width; j += LANES)
            *(VECTOR *)(z + i * ldz + j) *= factors[i];
        NAME(fill_padding)(n, width, z + i * ldz, 0);
    }
}

INLINE void NAME(softmax_along)(size_t count, size_t n, REAL *z, size_t ldz)
{
    const VECTOR total = NAME(exponentials_along)(count, n, PADDED(n), z, ldz).total;
    NAME(scale_rows)(count, n, PADDED(n), z, ldz, 1 / total);
}

static void NAME(softmax)(size_t rows, size_t n, REAL *z, size_t ldz)
{
    if (n <= FEW)
        for (size_t i = 0; i < rows; i += ROWS)
            NAME(softmax_across)(rows - i < ROWS ? rows - i : ROWS, n, z + i * ldz, ldz);
    else if (rows == 1) /* compiled on its own: a single prediction */
        NAME(softmax_along)(1, n, z, ldz);
    else
        for (size_t i = 0; i < rows; i += LANES)
            NAME(softmax_along)(rows - i < LANES ? rows - i : LANES, n, z + i * ldz, ldz);
}
