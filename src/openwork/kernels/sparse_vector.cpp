// One token through a sparse weight: only the weights that are not zero, of inputs that are not zero.
#include <cstring>

#include "parallel.h"
#include "variant.h"

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
        for (int64_t j = 0; j < d_in; j++) {
            const float input = x[t * d_in + j];
            if (input == 0.0f) continue;
            for (int32_t k = starts[j]; k < starts[j + 1]; k++) out[rows[k]] += input * values[k];
        }
    });
}
