// Products with a sparse weight at the cost of its non-zeros: y = x W^T + b, and its gradients.
//
// W (d_out, d_in) is compressed by rows: the weights of output r are values[starts[r] .. starts[r + 1]], read from the
// channels `columns`. A block of tokens is brought into lanes (vector.h), where one weight times one channel of all
// tokens of the block is a few vector multiply-adds; results stay in registers until a row is done. A zero weight
// multiplies nothing. AbsTopK of the outputs, if wanted, follows while the block's are in the cache.
#include "parallel.h"
#include "select_row.h"
#include "variant.h"
#include "vector.h"

namespace {

struct Sparse {
    const int32_t *starts, *columns;
    const float *values;
};

// out[0 .. WIDTH] = bias + the row's weights times the channels in lanes.
template <int WIDTH>
inline void row_product(const Sparse &w, int64_t row, const float *lanes, float bias, float *out) {
    constexpr int N = WIDTH / LANES;
    Vec sums[N];
    for (int v = 0; v < N; v++) sums[v] = all(bias);
    const int32_t end = w.starts[row + 1];
    for (int32_t k = w.starts[row]; k < end; k++) {
        const float *x = lanes + int64_t(w.columns[k]) * WIDTH;
        const Vec weight = all(w.values[k]);
        for (int v = 0; v < N; v++) sums[v] += weight * load(x + v * LANES);
    }
    for (int v = 0; v < N; v++) store(out + v * LANES, sums[v]);
}

// y (tokens, rows) = W times the block in lanes.
template <int WIDTH>
inline void block_product(const Sparse &w, int64_t rows, const float *lanes, const float *bias, int64_t tokens,
                          float *y) {
    alignas(64) float out[LANES * WIDTH];
    for (int64_t r = 0; r < rows; r += LANES) {
        const int64_t here = rows - r < LANES ? rows - r : LANES;
        for (int64_t i = 0; i < here; i++)
            row_product<WIDTH>(w, r + i, lanes, bias ? bias[r + i] : 0.0f, out + i * WIDTH);
        from_lanes<WIDTH>(out, here, tokens, y + r, rows);
    }
}

// Adds the sum of the n-th vector's lanes to to[n]: as many at a time as there are lanes, which takes a fraction of the
// exchanges that each alone would.
struct Sums {
    float *to;
    uint32_t n = 0;
    Vec waiting[LANES] = {};

    void add(Vec v) {
        waiting[n % LANES] = v;
        if (++n % LANES == 0) store(to + n - LANES, load(to + n - LANES) + sums(waiting));
    }
    void finish() {
        const Vec last = sums(waiting);
        for (uint32_t i = 0; i < n % LANES; i++) to[n / LANES * LANES + i] += last[i];
    }
};

// gradient[k] += sum over the block's tokens of dy[row of k] * x[column of k], and db[row] += that of dy[row].
template <int WIDTH>
inline void block_gradient(const Sparse &w, int64_t rows, const float *dy_lanes, const float *x_lanes, float *gradient,
                           float *db) {
    constexpr int N = WIDTH / LANES;
    Sums for_weights{gradient}, for_bias{db};
    for (int64_t r = 0; r < rows; r++) {
        Vec dy[N], total = {};
        for (int v = 0; v < N; v++) total += dy[v] = load(dy_lanes + r * WIDTH + v * LANES);
        for_bias.add(total);
        for (int32_t k = w.starts[r]; k < w.starts[r + 1]; k++) {
            const float *x = x_lanes + int64_t(w.columns[k]) * WIDTH;
            Vec part = dy[0] * load(x);
            for (int v = 1; v < N; v++) part += dy[v] * load(x + v * LANES);
            for_weights.add(part);
        }
    }
    for_weights.finish(), for_bias.finish();
}

template <int WIDTH>
int forward(const float *x, const Sparse &w, const float *bias, float *y, const Selection &selection, int64_t tokens,
            int64_t d_in, int64_t d_out, int threads) {
    int failed = 0;
    const int64_t blocks = (tokens + WIDTH - 1) / WIDTH, parts = blocks < threads ? blocks : threads;
    parallel(parts, threads, [&](int64_t part) {
        Scratch lanes(d_in * WIDTH), dense(d_out);
        int32_t guess = 0;
        if (!lanes.data || !dense.data) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        for (int64_t b = blocks * part / parts; b < blocks * (part + 1) / parts; b++) {
            const int64_t first = b * WIDTH, here = tokens - first < WIDTH ? tokens - first : WIDTH;
            to_lanes<WIDTH>(x + first * d_in, d_in, here, d_in, lanes.data);
            block_product<WIDTH>(w, d_out, lanes.data, bias, here, y + first * d_out);
            if (!selection.k) continue;
            for (int64_t t = first; t < first + here; t++)
                guess = select_row(selection, y, y, t, d_out, dense.data, guess);
        }
    });
    return failed;
}

// The gradient of a product's outputs, of which the entries that were not kept get none.
struct Upstream {
    const float *dy, *y;      // y (tokens, d) as it was selected, or null
    const int32_t *zero_cut;  // of each token
    const float *slopes;      // (tokens, d), or null; then y does not count

    // n entries of token t from channel c on.
    Vec at(int64_t t, int64_t c, int64_t n, int64_t d) const {
        const int64_t place = t * d + c;
        if (slopes) return sloped(dy, slopes, place, n);
        const Vec v = some(dy + place, n);
        if (!y) return v;
        const Vec value = some(y + place, n);
        IntVec bits, index;
        std::memcpy(&bits, &value, sizeof bits);
        for (int i = 0; i < LANES; i++) index[i] = i;
        return choose(((bits & MAGNITUDE) != 0) | (index <= zero_cut[t] - int32_t(c)), v, Vec{});
    }
};

template <int WIDTH>
int backward(const Upstream &upstream, const float *x, const Sparse &w, const Sparse &transposed, float *dx, float *gradients,
             int64_t tokens, int64_t d_in, int64_t d_out, int64_t parts, int threads) {
    int failed = 0;
    const int64_t blocks = (tokens + WIDTH - 1) / WIDTH, stride = w.starts[d_out] + d_out;
    parallel(parts, threads, [&](int64_t part) {
        float *gradient = gradients + part * stride;
        std::memset(gradient, 0, size_t(stride) * sizeof(float));
        Scratch lanes((d_in + d_out) * WIDTH);
        if (!lanes.data) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        float *dy_lanes = lanes.data, *x_lanes = lanes.data + d_out * WIDTH;
        for (int64_t b = blocks * part / parts; b < blocks * (part + 1) / parts; b++) {
            const int64_t first = b * WIDTH, here = tokens - first < WIDTH ? tokens - first : WIDTH;
            rows_to_lanes<WIDTH>(here, d_out, dy_lanes, [&](int64_t t, int64_t c, int64_t n) {
                return upstream.at(first + t, c, n, d_out);
            });
            to_lanes<WIDTH>(x + first * d_in, d_in, here, d_in, x_lanes);
            block_gradient<WIDTH>(w, d_out, dy_lanes, x_lanes, gradient, gradient + stride - d_out);
            if (dx) block_product<WIDTH>(transposed, d_in, dy_lanes, nullptr, here, dx + first * d_in);
        }
    });
    return failed;
}

// The most tokens in a block whose lanes fit into the cache that a core has to itself.
constexpr int64_t CACHE = 1 << 18;  // floats: 1 MiB

}  // namespace

// y (tokens, d_out) = x (tokens, d_in) W^T + bias (d_out,) or null. Also dx = dy W, with W compressed by columns.
// k > 0: of each row of y, or with `gelu` of its GELU, only the k largest magnitudes; with zero_cut (tokens,) and slopes
// (tokens, d_out), or null, as abs_topk and gelu_abs_topk have them. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(sparse_linear)(const float *x, const int32_t *starts, const int32_t *columns,
                                       const float *values, const float *bias, float *y, int32_t *zero_cut,
                                       float *slopes, int64_t tokens, int64_t d_in, int64_t d_out, int64_t k, int gelu,
                                       int threads) {
    const Sparse w{starts, columns, values};
    const Selection selection{k, gelu, zero_cut, slopes};
    const bool wide = tokens > 2 * LANES * threads && d_in * 4 * LANES <= CACHE;
    const bool narrow = tokens <= LANES * threads || d_in * 2 * LANES > CACHE;
    return (wide ? forward<4 * LANES> : narrow ? forward<LANES> : forward<2 * LANES>)(
        x, w, bias, y, selection, tokens, d_in, d_out, threads);
}

// The gradients of all of sparse_linear: dx (tokens, d_in) if not null, and, first in `gradients` (parts, watched +
// d_out), those of the weights at `starts` and `columns` and of the bias, summed in order over `parts` ranges of tokens
// that have a row each. The weights at these places may be the non-zeros, or more. `order` (nonzeros,) has the places in
// `values` of the non-zeros sorted by columns. y and zero_cut or slopes are what the selection left, null where there
// was none. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(sparse_linear_backward)(const float *dy, const float *y, const int32_t *zero_cut,
                                                const float *slopes, const float *x, const int32_t *starts,
                                                const int32_t *columns, const float *values, const int32_t *t_starts,
                                                const int32_t *t_rows, const int32_t *order, float *dx,
                                                float *gradients, int64_t tokens, int64_t d_in, int64_t d_out,
                                                int64_t parts, int threads) {
    const int64_t nonzeros = t_starts[d_in], stride = starts[d_out] + d_out;
    Scratch t_values(nonzeros + 1);
    if (!t_values.data) return 1;
    for (int64_t k = 0; k < nonzeros; k++) t_values.data[k] = values[order[k]];
    const Sparse w{starts, columns, nullptr}, t{t_starts, t_rows, t_values.data};
    const Upstream upstream{dy, y, zero_cut, slopes};
    const bool wide = (d_in + d_out) * 4 * LANES <= CACHE && tokens > 2 * LANES * threads;
    if ((wide ? backward<4 * LANES> : backward<2 * LANES>)(upstream, x, w, t, dx, gradients, tokens, d_in, d_out, parts,
                                                           threads))
        return 1;
    parallel(parts, threads, [=](int64_t part) {
        for (int64_t other = 1; other < parts; other++)
            for (int64_t i = stride * part / parts; i < stride * (part + 1) / parts; i++)
                gradients[i] += gradients[other * stride + i];
    });
    return 0;
}
