// GELU of all entries, forward and backward.
#include "gelu.h"
#include "parallel.h"
#include "variant.h"

// y (n,) = gelu(x)
extern "C" void FUNCTION(gelu)(const float *x, float *y, int64_t n, int threads) {
    parallel((n + PART - 1) / PART, threads, [=](int64_t part) {
        for_vectors(part * PART, (part + 1) * PART < n ? (part + 1) * PART : n,
                    [=](int64_t i, int64_t m) { put(y + i, gelu_of(some(x + i, m)), m); });
    });
}

// dx = dy (P(x) + x P'(x))
extern "C" void FUNCTION(gelu_backward)(const float *dy, const float *x, float *dx, int64_t n, int threads) {
    parallel((n + PART - 1) / PART, threads, [=](int64_t part) {
        for_vectors(part * PART, (part + 1) * PART < n ? (part + 1) * PART : n, [=](int64_t i, int64_t m) {
            put(dx + i, some(dy + i, m) * gelu_slope(some(x + i, m)), m);
        });
    });
}
