/* Response normalisation of maps whose channels lie last in memory, and its backward pass: the
 * formulas are in layer.py. Compiled by native.py, once for each type of tensor: `stored` is what
 * it holds, `real` what is computed with.
 *
 * Work comes in blocks that stay in the cache, with zeros around them, so that sums need not ask
 * where a block ends. Across maps a block is one pixel, all its maps, in one row. Within a map it is
 * LANES maps of one image, a row for each pixel.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef BFLOAT16
typedef uint16_t stored;
typedef float real;
static inline real load(stored x) {
    union { uint32_t bits; float value; } wide = {(uint32_t)x << 16};
    return wide.value;
}
static inline stored store(real x) { /* to the nearest, of two to the even one */
    union { float value; uint32_t bits; } wide = {x};
    return (wide.bits + 0x7fff + (wide.bits >> 16 & 1)) >> 16;
}
#else
typedef REAL stored, real;
static inline real load(stored x) { return x; }
static inline stored store(real x) { return x; }
#endif

#define LANES 16 /* as many floats as the widest registers hold */

typedef struct {
    int64_t images, height, width, maps; /* of the tensor */
    int64_t across, size;                /* the window: across maps or not; odd */
    double alpha, beta, k;
} Norm;

typedef struct {
    const Norm *norm;
    int64_t rows, n, step;              /* n values in each row; rows are `step` apart in tensors */
    real *padded, *sums; /* the block with zeros around it; sums over windows, one for each value */
    real *direct, *aside; /* gradient that does not flow through sums; sums of windows' rows */
} Block;

/* Where row r is in `padded`, and in `sums` and `direct`. Lanes that a block does not fill keep what
 * was there: lanes never mix. */
static inline real *in_padded(const Block *b, int64_t r) {
    int64_t half = b->norm->size / 2, width = b->norm->width;
    if (b->norm->across) return b->padded + half;
    return b->padded + ((r / width + half) * (width + 2 * half) + r % width + half) * LANES;
}
static inline int64_t at(int64_t r) { return r * LANES; }

/* Sums of `size` values each, `step` apart. Five at once is what this network needs. */
static inline void add_up(const real *from, real *restrict to, int64_t n, int64_t step, int64_t size) {
    if (size == 5)
        for (int64_t i = 0; i < n; i++) {
            const real *x = from + i;
            to[i] = x[0] + x[step] + x[2 * step] + x[3 * step] + x[4 * step];
        }
    else
        for (int64_t i = 0; i < n; i++) {
            to[i] = from[i];
            for (int64_t j = 1; j < size; j++) to[i] += from[i + j * step];
        }
}

/* `sums` of what is in `padded`, over the window around each value. */
static void sum_windows(const Block *b) {
    int64_t size = b->norm->size, height = b->norm->height, row = b->norm->width * LANES;
    if (b->norm->across) {
        add_up(b->padded, b->sums, b->n, 1, size);
        return;
    }
    for (int64_t y = 0; y < height + size - 1; y++)
        add_up(b->padded + y * (row + (size - 1) * LANES), b->aside + y * row, row, LANES, size);
    add_up(b->aside, b->sums, height * row, row, size);
}

static inline real square_root(real x) { return sizeof(real) == 8 ? sqrt(x) : sqrtf(x); }

static inline real to_minus(double beta, real d) { /* d^-beta; 3/4 by two roots */
    if (beta != 0.75) return pow(d, -beta);
    real root = 1 / square_root(d);
    return root * square_root(root);
}

static void normalise_block(const Block *b, const stored *x, const stored *g, stored *y) {
    const double beta = b->norm->beta;
    const real alpha = b->norm->alpha, k = b->norm->k, slope = 2 * b->norm->alpha * beta;
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t i = 0; i < b->n; i++)
            in_padded(b, r)[i] = load(x[r * b->step + i]) * load(x[r * b->step + i]);
    sum_windows(b);
    for (int64_t r = 0; r < b->rows; r++) {
        const stored *from = x + r * b->step;
        real *sums = b->sums + at(r);
        if (!g)
            for (int64_t i = 0; i < b->n; i++)
                y[r * b->step + i] = store(load(from[i]) * to_minus(beta, k + alpha * sums[i]));
        else {
            real *through = in_padded(b, r), *direct = b->direct + at(r);
            for (int64_t i = 0; i < b->n; i++) {
                direct[i] = load(g[r * b->step + i]) * to_minus(beta, k + alpha * sums[i]);
                through[i] = direct[i] * load(from[i]) / (k + alpha * sums[i]);
            }
        }
    }
    if (!g) return;
    sum_windows(b);
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t i = 0; i < b->n; i++) {
            real through = slope * load(x[r * b->step + i]) * b->sums[at(r) + i];
            y[r * b->step + i] = store(b->direct[at(r) + i] - through);
        }
}

/* y of x; with g, the gradient of y, y is the gradient of x. Returns 0, or 1 if memory is spent. */
int normalise(const Norm *o, int threads, const stored *x, const stored *g, stored *y) {
    int64_t pixels = o->height * o->width, halves = o->size - 1;
    int64_t share = o->across ? 1 : (o->maps + LANES - 1) / LANES; /* blocks of one image or pixel */
    int64_t blocks = o->across ? o->images * pixels : o->images * share;
    int64_t padded = o->across ? o->maps + halves : (o->height + halves) * (o->width + halves) * LANES;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        real *memory = calloc(4 * padded, sizeof(real));
        Block b = {o, o->across ? 1 : pixels, 0, o->maps, memory, memory + padded,
                   memory + 2 * padded, memory + 3 * padded};
        if (!memory) failed = 1;
#pragma omp for
        for (int64_t block = 0; block < blocks; block++) {
            int64_t first = block % share * LANES, left = o->maps - first;
            int64_t begin = block / share * (o->across ? 1 : pixels) * o->maps + first;
            b.n = o->across || left < LANES ? left : LANES;
            if (memory) normalise_block(&b, x + begin, g ? g + begin : 0, y + begin);
        }
        free(memory);
    }
    return failed;
}
