// One token through a sparse weight: only the weights that are not zero, of inputs that are not zero.
#include <cstring>

#include "parallel.h"
#include "variant.h"

namespace {

constexpr int64_t INPUTS = 1024;  // looked at together for those that are not zero
constexpr int32_t AHEAD = 16;       // so many of these ahead, an input's weights are fetched

}  // namespace

// y (tokens, d_out) = x (tokens, d_in) W^T + bias or null, for a few tokens, with W compressed by columns: the weights
// of input j are values[starts[j] .. starts[j + 1]], of the outputs `rows`. NaN is no zero.
extern "C" void FUNCTION(sparse_vector)(const float *x, const int32_t *starts, const int32_t *rows, const float *values,
                                        const float *bias, float *y, int64_t tokens, int64_t d_in, int64_t d_out,
                                        int threads) {
    parallel(tokens, threads, [=](int64_t t) {
        float *__restrict out = y + t * d_out;
        if (bias)
            std::memcpy(out, bias, size_t(d_out) * sizeof(float));
        else
            std::memset(out, 0, size_t(d_out) * sizeof(float));
        int32_t active[INPUTS];
        for (int64_t first = 0; first < d_in; first += INPUTS) {
            const int64_t here = d_in - first < INPUTS ? d_in - first : INPUTS;
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
}
