// The k-th largest magnitude of a row, found by counting: no sort, no copy, exact.
//
// A float's magnitude, read as an integer, orders like the float. All NaNs are made one integer, above infinity. So
// every comparison is one of integers, no NaN is lost, and the same entries are chosen on every machine.
#pragma once
#include <cstdint>
#include <cstring>

#include "vector.h"

namespace {

constexpr int32_t NOT_A_NUMBER = 0x7f800001, LARGEST_FINITE = 0x7f7fffff;

inline int32_t magnitude(int32_t bits) {
    bits &= MAGNITUDE;
    return bits < NOT_A_NUMBER ? bits : NOT_A_NUMBER;
}

inline float as_float(int32_t bits) {
    float value;
    bits = bits < LARGEST_FINITE ? bits : LARGEST_FINITE;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline int32_t as_bits(float value) {
    int32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline int64_t at_least(const int32_t *keys, int64_t n, int32_t bound) {
    int32_t count = 0;
    for (int64_t j = 0; j < n; j++) count += keys[j] >= bound;
    return count;
}

// What is kept of a row: every key above `bound`, and those equal to it up to index `cut`.
struct Kept {
    int32_t bound, cut;
};

struct Keys {
    int32_t largest;
    int64_t nonzero;
};

// keys = magnitudes of bits, both of length n; they may be the same memory.
inline Keys make_keys(const int32_t *bits, int32_t *keys, int64_t n) {
    int32_t largest = 0, nonzero = 0;
    for (int64_t j = 0; j < n; j++) {
        int32_t key = magnitude(bits[j]);
        keys[j] = key;
        nonzero += key != 0;
        largest = largest > key ? largest : key;
    }
    return {largest, nonzero};
}

struct Bound {
    int32_t value;
    int64_t reached;  // how many keys reach it: k, or more where equal keys straddle it
};

// A bound that at least k keys reach and that fewer than k exceed. Counts at `guess`, then where the straight line
// between the two counts around k says (Illinois rule: an end that stays twice counts half); halves bit patterns
// where 16 rounds were not enough.
inline Bound find_bound(const int32_t *keys, int64_t n, int64_t k, Keys summary, int32_t guess) {
    if (summary.nonzero < k) return {0, n};
    int32_t low = 1, high = summary.largest + 1;  // low is reached by at least k keys, high by fewer
    int64_t reached = summary.nonzero;
    float over = float(reached - k), under = float(k);
    int side = 0;
    for (int round = 0; reached > k && high - low > 1; round++) {
        int32_t middle = guess > low && guess < high ? guess : low + (high - low) / 2;
        int64_t count = at_least(keys, n, middle);
        if (count >= k) {
            low = middle, reached = count, over = float(count - k);
            if (side == 1) under *= 0.5f;
            side = 1;
        } else {
            high = middle, under = float(k - count);
            if (side == -1) over *= 0.5f;
            side = -1;
        }
        float from = as_float(low), to = as_float(high);
        guess = round < 16 ? as_bits(from + (to - from) * (over / (over + under))) : 0;
    }
    return {low, reached};
}

// The index of the m-th key (from 1) equal to `bound`.
inline int64_t index_of_tie(const int32_t *keys, int32_t bound, int64_t m) {
    for (int64_t j = 0;; j++)
        if (keys[j] == bound && --m == 0) return j;
}

// What of the n keys is kept so that k are (1 <= k <= n), those of lower index first among equals.
inline Kept keep(const int32_t *keys, int64_t n, int64_t k, Keys summary, int32_t guess) {
    Bound bound = find_bound(keys, n, k, summary, guess);
    if (bound.value > 0 && bound.reached == k) return {bound.value - 1, -1};
    int64_t above = at_least(keys, n, bound.value + 1);
    return {bound.value, int32_t(index_of_tie(keys, bound.value, k - above))};
}

}  // namespace
