// One row of AbsTopK.
#pragma once
#include "threshold.h"

namespace {

// Enough elements for a thread to be worth waking.
constexpr int64_t PART = 16384;

inline int64_t rows_a_part(int64_t d) { return d < PART ? PART / d : 1; }

// One row: y serves as the memory of the keys until it is written. Returns the bound, the next row's first guess.
[[maybe_unused]] inline int32_t one_row(const int32_t *__restrict x, int32_t *__restrict y, int32_t *zero_cut,
                                        int64_t d, int64_t k, int32_t guess) {
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

}  // namespace
