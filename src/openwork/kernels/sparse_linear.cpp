// Products with sparse weights at the cost of their non-zeros: y = x W^T + b, and its gradients; of several weights that
// read the same x at once.
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

// A weight, and the block in lanes that it reads.
struct Sparse {
    const int32_t *starts, *columns;
    const float *values, *lanes;
};

// sums[0 .. N] += row r of the weight times its block.
template <int N>
inline void add_row(const Sparse &w, int64_t r, Vec *sums) {
    const int32_t end = w.starts[r + 1];
    for (int32_t k = w.starts[r]; k < end; k++) {
        const float *x = w.lanes + int64_t(w.columns[k]) * N * LANES;
        const Vec weight = all(w.values[k]);
        for (int v = 0; v < N; v++) sums[v] += weight * load(x + v * LANES);
    }
}

// y (tokens, rows) = bias plus the sum over n weights of each times its block; the last comes first. By itself it has
// all registers.
template <int WIDTH>
__attribute__((noinline)) void block_product(const Sparse *w, int64_t n, int64_t rows, const float *bias,
                                             int64_t tokens, float *y) {
    constexpr int N = WIDTH / LANES;
    alignas(64) float out[LANES * WIDTH];
    for (int64_t r = 0; r < rows; r += LANES) {
        const int64_t here = rows - r < LANES ? rows - r : LANES;
        for (int64_t i = 0; i < here; i++) {
            Vec sums[N];
            for (int v = 0; v < N; v++) sums[v] = all(bias ? bias[r + i] : 0.0f);
            add_row<N>(w[n - 1], r + i, sums);
            for (int64_t other = n - 2; other >= 0; other--) {
                Vec more[N] = {};
                add_row<N>(w[other], r + i, more);
                for (int v = 0; v < N; v++) sums[v] += more[v];
            }
            for (int v = 0; v < N; v++) store(out + i * WIDTH + v * LANES, sums[v]);
        }
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

// gradient[k] += sum over the block's tokens of dy[row of k] * x[column of k], and db[row] += that of dy[row]; w has the
// places, and the block of x.
template <int WIDTH>
inline void block_gradient(const Sparse &w, int64_t rows, const float *dy_lanes, float *gradient, float *db) {
    constexpr int N = WIDTH / LANES;
    Sums for_weights{gradient}, for_bias{db};
    for (int64_t r = 0; r < rows; r++) {
        Vec dy[N], total = {};
        for (int v = 0; v < N; v++) total += dy[v] = load(dy_lanes + r * WIDTH + v * LANES);
        for_bias.add(total);
        for (int32_t k = w.starts[r]; k < w.starts[r + 1]; k++) {
            const float *x = w.lanes + int64_t(w.columns[k]) * WIDTH;
            Vec part = dy[0] * load(x);
            for (int v = 1; v < N; v++) part += dy[v] * load(x + v * LANES);
            for_weights.add(part);
        }
    }
    for_weights.finish(), for_bias.finish();
}

// What is wanted of a weight; library.py has the same words.
struct Product {
    const int32_t *starts, *columns;
    const float *values, *bias;  // bias (d_out,) or null
    float *y;                    // (tokens, d_out)
    int32_t *zero_cut;           // (tokens,) and slopes (tokens, d_out): as abs_topk and gelu_abs_topk have them; or null
    float *slopes;
    int64_t d_out, k, gelu;      // k > 0: of each row, or of its GELU, only the k largest magnitudes
};

template <int WIDTH>
int forward(const float *x, const Product *products, int64_t n, int64_t tokens, int64_t d_in, int threads) {
    int failed = 0;
    const int64_t blocks = (tokens + WIDTH - 1) / WIDTH, parts = blocks < threads ? blocks : threads;
    int64_t widest = 0;
    for (int64_t i = 0; i < n; i++) widest = widest < products[i].d_out ? products[i].d_out : widest;
    parallel(parts, threads, [&](int64_t part) {
        Scratch lanes(d_in * WIDTH), dense(widest), guesses(n);
        if (!lanes.data || !dense.data || !guesses.data) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        int32_t *guess = reinterpret_cast<int32_t *>(guesses.data);
        std::memset(guess, 0, size_t(n) * sizeof(int32_t));
        for (int64_t b = blocks * part / parts; b < blocks * (part + 1) / parts; b++) {
            const int64_t first = b * WIDTH, here = tokens - first < WIDTH ? tokens - first : WIDTH;
            to_lanes<WIDTH>(x + first * d_in, d_in, here, d_in, lanes.data);
            for (int64_t i = 0; i < n; i++) {
                const Product &p = products[i];
                const Sparse w{p.starts, p.columns, p.values, lanes.data};
                block_product<WIDTH>(&w, 1, p.d_out, p.bias, here, p.y + first * p.d_out);
                if (!p.k) continue;
                const Selection selection{p.k, int(p.gelu), p.zero_cut, p.slopes};
                for (int64_t t = first; t < first + here; t++)
                    guess[i] = select_row(selection, p.y, p.y, t, p.d_out, dense.data, guess[i]);
            }
        }
    });
    return failed;
}

// What is wanted of a weight's gradients; library.py has the same words.
struct Gradient {
    const float *dy, *y;               // (tokens, d_out): y as it was selected, or null where nothing was
    const int32_t *zero_cut;           // of each token
    const float *slopes;               // (tokens, d_out), or null; then y does not count
    const int32_t *starts, *columns;   // the weights that get a gradient: the non-zeros, or more
    const float *values;               // of the non-zeros
    const int32_t *t_starts, *t_rows, *order;  // these by columns, and their places in `values`
    float *gradients;                  // (parts, watched + d_out), see sparse_linear_backward; or null
    int64_t d_out;

    // n entries of what reaches the outputs of token t, from channel c on; one that was not kept gets no gradient.
    Vec upstream(int64_t t, int64_t c, int64_t n) const {
        const int64_t place = t * d_out + c;
        if (slopes) return sloped(dy, slopes, place, n);
        const Vec v = some(dy + place, n);
        if (!y) return v;
        const Vec value = some(y + place, n);
        IntVec bits, index;
        std::memcpy(&bits, &value, sizeof bits);
        for (int i = 0; i < LANES; i++) index[i] = i;
        return choose(((bits & MAGNITUDE) != 0) | (index <= zero_cut[t] - int32_t(c)), v, Vec{});
    }
    int64_t stride() const { return starts[d_out] + d_out; }
};

// `transposed` has the weights by columns, `width` is the sum of their d_out; whether any has `gradients`: `learns`.
template <int WIDTH>
int backward(const float *x, const Gradient *wanted, const Sparse *transposed, int64_t n, float *dx, int64_t tokens,
             int64_t d_in, int64_t width, bool learns, int64_t parts, int threads) {
    int failed = 0;
    const int64_t blocks = (tokens + WIDTH - 1) / WIDTH;
    parallel(parts, threads, [&](int64_t part) {
        Scratch lanes((d_in + width) * WIDTH), memory(n * int64_t(sizeof(Sparse) / sizeof(float)));
        if (!lanes.data || !memory.data) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        float *x_lanes = lanes.data + width * WIDTH;
        Sparse *t = reinterpret_cast<Sparse *>(memory.data);
        for (int64_t i = 0, before = 0; i < n; before += wanted[i++].d_out) {
            const Gradient &g = wanted[i];
            t[i] = transposed[i], t[i].lanes = lanes.data + before * WIDTH;
            if (g.gradients) std::memset(g.gradients + part * g.stride(), 0, size_t(g.stride()) * sizeof(float));
        }
        for (int64_t b = blocks * part / parts; b < blocks * (part + 1) / parts; b++) {
            const int64_t first = b * WIDTH, here = tokens - first < WIDTH ? tokens - first : WIDTH;
            if (learns) to_lanes<WIDTH>(x + first * d_in, d_in, here, d_in, x_lanes);
            float *dy_lanes = lanes.data;
            for (int64_t i = 0; i < n; dy_lanes += wanted[i++].d_out * WIDTH) {
                const Gradient &g = wanted[i];
                rows_to_lanes<WIDTH>(here, g.d_out, dy_lanes, [&](int64_t j, int64_t c, int64_t m) {
                    return g.upstream(first + j, c, m);
                });
                if (!g.gradients) continue;
                float *gradient = g.gradients + part * g.stride();
                const Sparse w{g.starts, g.columns, nullptr, x_lanes};
                block_gradient<WIDTH>(w, g.d_out, dy_lanes, gradient, gradient + g.starts[g.d_out]);
            }
            if (dx) block_product<WIDTH>(t, n, d_in, nullptr, here, dx + first * d_in);
        }
    });
    return failed;
}

// The most tokens in a block whose lanes fit into the cache that a core has to itself.
constexpr int64_t CACHE = 1 << 18;  // floats: 1 MiB

// Tokens in a block where weights learn, as many as the registers hold sums of: more pay there even if they do not fit.
constexpr int MANY = LANES == 4 ? 16 : 64;

}  // namespace

// y (tokens, d_out) = x (tokens, d_in) W^T + bias for each of n weights. Also dx = dy W, with W compressed by columns.
// Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(sparse_linear)(const float *x, const void *products, int64_t n, int64_t tokens, int64_t d_in,
                                       int threads) {
    const bool wide = tokens > 2 * LANES * threads && d_in * 4 * LANES <= CACHE;
    const bool narrow = tokens <= LANES * threads || d_in * 2 * LANES > CACHE;
    return (wide ? forward<4 * LANES> : narrow ? forward<LANES> : forward<2 * LANES>)(
        x, static_cast<const Product *>(products), n, tokens, d_in, threads);
}

// The gradients of all of sparse_linear: dx (tokens, d_in), the sum over the n weights, if not null; and, for those with
// `gradients`, first in these the gradients of the weights at `starts` and `columns` and of the bias, summed in order
// over `parts` ranges of tokens that have a row each. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(sparse_linear_backward)(const float *x, const void *gradients, int64_t n, float *dx,
                                                int64_t tokens, int64_t d_in, int64_t parts, int threads) {
    const Gradient *wanted = static_cast<const Gradient *>(gradients);
    int64_t width = 0, nonzeros = 1;
    bool learns = false;
    for (int64_t i = 0; i < n; i++) {
        width += wanted[i].d_out, nonzeros += wanted[i].t_starts[d_in];
        learns |= wanted[i].gradients != nullptr;
    }
    Scratch values(nonzeros), memory(n * int64_t(sizeof(Sparse) / sizeof(float)));
    if (!values.data || !memory.data) return 1;
    Sparse *transposed = reinterpret_cast<Sparse *>(memory.data);
    float *t_values = values.data;
    for (int64_t i = 0; i < n; i++) {
        const Gradient &g = wanted[i];
        transposed[i] = {g.t_starts, g.t_rows, t_values, nullptr};
        for (int32_t k = 0; k < g.t_starts[d_in]; k++) *t_values++ = g.values[g.order[k]];
    }
    const auto run = tokens <= MANY / 2 * threads ? backward<2 * LANES> : learns ? backward<MANY> : backward<4 * LANES>;
    if (run(x, wanted, transposed, n, dx, tokens, d_in, width, learns, parts, threads)) return 1;
    for (int64_t i = 0; i < n; i++) {
        const int64_t stride = wanted[i].stride();
        float *gradient = wanted[i].gradients;
        if (gradient && parts > 1)
            parallel(parts, threads, [=](int64_t part) {
                for (int64_t other = 1; other < parts; other++)
                    for (int64_t j = stride * part / parts; j < stride * (part + 1) / parts; j++)
                        gradient[j] += gradient[other * stride + j];
            });
    }
    return 0;
}
