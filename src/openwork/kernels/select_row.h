// One row of AbsTopK, after a GELU where wanted, and what its gradient passes on.
#pragma once
#include "gelu.h"
#include "threshold.h"

namespace {

// One row: y serves as the memory of the keys until it is written. Returns the bound, the next row's first guess. Not
// inline, so that a profiler tells it from the product, GELU or norm before it.
[[maybe_unused]] __attribute__((noinline)) int32_t one_row(const int32_t *__restrict x, int32_t *__restrict y,
                                                           int32_t *zero_cut, int64_t d, int64_t k, int32_t guess) {
    Keys summary = make_keys(x, y, d);
    Kept kept = keep(y, d, k, summary, guess);
    if (zero_cut) *zero_cut = kept.bound == 0 ? kept.cut : -1;
    if (kept.cut < 0) {
        for (int64_t j = 0; j < d; j++) y[j] = y[j] > kept.bound ? x[j] : 0;
    } else {
        for (int32_t j = 0; j < int32_t(d); j++) {
            bool tie = (y[j] == kept.bound) & (j <= kept.cut);
            y[j] = (y[j] > kept.bound) | tie ? x[j] : 0;
        }
    }
    return kept.bound;
}

// out = dy where y's entry was kept: y != 0, or its index is at most the row's zero_cut.
template <class T>
inline void passed_row(const T *__restrict dy, const int32_t *__restrict y, int32_t cut, T *__restrict out, int64_t d) {
    for (int32_t j = 0; j < int32_t(d); j++) out[j] = ((y[j] & MAGNITUDE) != 0) | (j <= cut) ? dy[j] : T(0);
}

// The k largest of a row, of its GELU if there are to be slopes or `gelu` says so, without the values in between in
// memory.
struct Selection {
    int64_t k;
    int gelu;
    int32_t *zero_cut;  // of each row, see one_row; or null
    float *slopes;      // (rows, d): those of gelu at x where an entry was kept, zeros elsewhere; or null
};

// A row's GELU and, if they are wanted, its slopes.
[[maybe_unused]] inline void gelu_row(const float *in, float *out, float *slopes, int64_t d) {
    if (slopes)
        for_vectors(0, d, [=](int64_t j, int64_t m) {
            const Vec v = some(in + j, m);
            const Normal p = normal(v);
            put(out + j, gelu_of(v, p), m);
            put(slopes + j, gelu_slope(v, p), m);
        });
    else
        for_vectors(0, d, [=](int64_t j, int64_t m) { put(out + j, gelu_of(some(in + j, m)), m); });
}

// A row's slopes where the entry of y was kept, zeros elsewhere. Not inline, as `one_row`.
[[maybe_unused]] __attribute__((noinline)) void keep_slopes(const int32_t *y, int32_t cut, float *slopes, int64_t d) {
    for (int32_t j = 0; j < int32_t(d); j++) slopes[j] = ((y[j] & MAGNITUDE) != 0) | (j <= cut) ? slopes[j] : 0.0f;
}

// Row r of y from that of x, which may be the same memory; `dense` has room for a row. Returns the next row's guess.
[[maybe_unused]] inline int32_t select_row(const Selection &s, const float *x, float *y, int64_t r, int64_t d,
                                           float *dense, int32_t guess) {
    const float *in = x + r * d;
    float *slopes = s.slopes ? s.slopes + r * d : nullptr;
    if (slopes || s.gelu)
        gelu_row(in, dense, slopes, d);
    else
        std::memcpy(dense, in, size_t(d) * sizeof(float));
    int32_t *out = reinterpret_cast<int32_t *>(y + r * d), cut;
    guess = one_row(reinterpret_cast<const int32_t *>(dense), out, &cut, d, s.k, guess);
    if (s.zero_cut) s.zero_cut[r] = cut;
    if (slopes) keep_slopes(out, cut, slopes, d);
    return guess;
}

// n entries from `at` on of dy times the slopes: an entry that was not kept passes nothing on, not even NaN.
[[maybe_unused]] inline Vec sloped(const float *dy, const float *slopes, int64_t at, int64_t n) {
    const Vec slope = some(slopes + at, n);
    return choose(slope == 0.0f, Vec{}, some(dy + at, n) * slope);
}

}  // namespace
