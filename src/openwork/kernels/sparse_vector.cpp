// One token through a sparse weight: only the weights that are not zero, of inputs that are not zero.
#include <cstring>

#include "parallel.h"
#include "variant.h"
#include "vector.h"

namespace {

constexpr int64_t INPUTS = 1024;  // looked at together for those that are not zero
constexpr int32_t AHEAD = 16;       // so many of these ahead, an input's weights are fetched
constexpr int32_t HALVED = 8192;    // weights from which on the inputs are worth dividing between two threads

}  // namespace

// y (tokens, d_out) = x (tokens, d_in) W^T + bias or null, for a few tokens, with W compressed by columns: the weights
// of input j are values[starts[j] .. starts[j + 1]], of the outputs `rows`. NaN is no zero. The second half of the inputs
// of a large weight is summed apart, however many threads there are; each thread finds its half in its own cache when the
// next token comes. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(sparse_vector)(const float *x, const int32_t *starts, const int32_t *rows, const float *values,
                                       const float *bias, float *y, int64_t tokens, int64_t d_in, int64_t d_out,
                                       int threads) {
    const int64_t halves = starts[d_in] < HALVED ? 1 : 2;
    const Scratch second((halves - 1) * tokens * d_out);
    if (halves == 2 && !second.data) return 1;
    parallel(tokens * halves, threads, [=, others = second.data](int64_t part) {
        const int64_t t = part / halves, half = part % halves;
        const int64_t begin = d_in * half / halves, end = d_in * (half + 1) / halves;
        float *__restrict out = (half ? others : y) + t * d_out;
        if (bias && !half)
            std::memcpy(out, bias, size_t(d_out) * sizeof(float));
        else
            std::memset(out, 0, size_t(d_out) * sizeof(float));
        int32_t active[INPUTS];
        for (int64_t first = begin; first < end; first += INPUTS) {
            const int64_t here = end - first < INPUTS ? end - first : INPUTS;
            int32_t n = 0;
            for (int64_t j = 0; j < here; j++) {  // without a branch, which nobody could predict
                active[n] = int32_t(first + j);
                n += x[t * d_in + first + j] != 0.0f;
            }
            for (int32_t i = 0; i < n; i++) {
                if (i + AHEAD < n) {
                    const int32_t next = starts[active[i + AHEAD]];
                    __builtin_prefetch(rows + next);
                    __builtin_prefetch(values + next);
                }
                const float input = x[t * d_in + active[i]];
                for (int32_t k = starts[active[i]]; k < starts[active[i] + 1]; k++) out[rows[k]] += input * values[k];
            }
        }
    });
    for (int64_t i = 0; i < (halves - 1) * tokens * d_out; i++) y[i] += second.data[i];
    return 0;
}
