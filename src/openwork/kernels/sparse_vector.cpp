// A token through sparse weights that read the same x: only the weights that are not zero, of inputs that are not zero;
// then AbsTopK of the outputs, if wanted.
#include <cstring>

#include "parallel.h"
#include "select_row.h"
#include "variant.h"
#include "vector.h"

namespace {

constexpr int64_t INPUTS = 1024;  // looked at together for those that are not zero
constexpr int32_t AHEAD = 16;       // so many of these ahead, an input's weights are fetched
constexpr int32_t HALVED = 8192;    // weights from which on the inputs are worth dividing between two threads

// y (tokens, d_out) = x (tokens, d_in) W^T + bias or null, with W compressed by columns: the n = starts[j + 1] - starts[j]
// weights of input j lie from packed + 3 * starts[j] on, first n values of two words, then n outputs of one, so that they
// touch few lines of cache. If k > 0, AbsTopK of that or, with gelu, of its GELU.
struct ByInput {
    const int32_t *starts;
    const uint16_t *packed;
    const float *bias;
    float *y;
    int64_t d_out, k, gelu;
};

// The indices from begin to end at which x is not zero; up to LANES more are overwritten. Returns how many.
inline int32_t find_active(const float *x, int64_t begin, int64_t end, int32_t *active) {
    int64_t n = 0, j = begin;
    IntVec at;
    for (int i = 0; i < LANES; i++) at[i] = int32_t(begin) + i;
    for (; j + LANES <= end; j += LANES, at += LANES) n += put_chosen(active + n, load(x + j) != 0.0f, at);
    for (; j < end; j++) active[n] = int32_t(j), n += x[j] != 0.0f;
    return int32_t(n);
}

}  // namespace

// The n products of x (tokens, d_in), a few tokens, with `weights`. NaN is no zero. The second half of the inputs of a
// large weight is summed apart, however many threads there are; each thread finds its half in its own cache when the next
// token comes. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(sparse_vector)(const float *x, const void *weights, int64_t n, int64_t tokens, int64_t d_in,
                                       int threads) {
    const ByInput *all_weights = static_cast<const ByInput *>(weights);
    int64_t widest = 0;
    for (int64_t i = 0; i < n; i++) widest = all_weights[i].d_out > widest ? all_weights[i].d_out : widest;
    const Scratch second(n * tokens * widest);
    if (!second.data) return 1;
    parallel(2 * n * tokens, threads, [=, others = second.data](int64_t part) {
        const int64_t at = part / 2, half = part % 2, t = at % tokens;
        const ByInput &w = all_weights[at / tokens];
        const bool whole = w.starts[d_in] < HALVED;
        if (whole && half) return;
        float *__restrict out = half ? others + at * widest : w.y + t * w.d_out;
        if (w.bias && !half)
            std::memcpy(out, w.bias, size_t(w.d_out) * sizeof(float));
        else
            std::memset(out, 0, size_t(w.d_out) * sizeof(float));
        const float *inputs = x + t * d_in;
        const int64_t begin = d_in * half / 2, end = whole ? d_in : d_in * (half + 1) / 2;
        int32_t active[INPUTS + LANES];
        for (int64_t first = begin; first < end; first += INPUTS) {
            const int32_t n = find_active(inputs, first, end - first < INPUTS ? end : first + INPUTS, active);
            for (int32_t i = 0; i < n; i++) {  // not a function: GCC 12 would take it for one without effects
                if (i + AHEAD < n) {
                    const uint16_t *next = w.packed + 3 * int64_t(w.starts[active[i + AHEAD]]);
                    __builtin_prefetch(next);
                    __builtin_prefetch(next + 32);
                }
                const int32_t start = w.starts[active[i]], many = w.starts[active[i] + 1] - start;
                const uint16_t *values = w.packed + 3 * int64_t(start), *rows = values + 2 * int64_t(many);
                for (int32_t k = 0; k < many; k++) {
                    float value;
                    std::memcpy(&value, values + 2 * k, sizeof value);
                    out[rows[k]] += inputs[active[i]] * value;
                }
            }
        }
    });
    parallel(n * tokens, threads, [=, others = second.data](int64_t at) {
        const int64_t t = at % tokens;
        const ByInput &w = all_weights[at / tokens];
        float *y = w.y + t * w.d_out, *other = others + at * widest;
        if (w.starts[d_in] >= HALVED)
            for (int64_t i = 0; i < w.d_out; i++) y[i] += other[i];
        if (w.k > 0) select_row({w.k, int(w.gelu), nullptr, nullptr}, w.y, w.y, t, w.d_out, other, 0);
    });
    return 0;
}
