// The projection: a matrix keeps its k largest magnitudes, each line at least its own `floor` largest. The same in
// PyTorch: twins.py.
//
// The k-th largest is found by counting digits, the highest first (a radix histogram of 11, 11 and 10 bits), in three
// passes over the matrix; a fourth writes zeros. What a line protects is not marked in memory: it is a bound and a
// cut per line.
#include <cstdlib>

#include "parallel.h"
#include "threshold.h"
#include "variant.h"

namespace {

constexpr int64_t BLOCK = 1024, LINES = 16, BINS = 2048, SPARE = 16, TABLE = BINS + SPARE;
constexpr uint32_t PROTECTED = 0xffffffffu;

struct Matrix {
    int32_t *bits;
    int64_t rows, cols;
    const int32_t *bound, *cut;  // of every line, see Kept; null without a floor
    int axis;                    // 1: lines are rows, 0: columns
};

// Calls f(keys, bits, m) for the flat range [begin, end) in blocks that lie within a row; a protected entry's key is
// PROTECTED.
template <class F>
inline void for_blocks(const Matrix &w, int64_t begin, int64_t end, F f) {
    uint32_t keys[BLOCK];
    for (int64_t i = begin, m; i < end; i += m) {
        const int64_t r = i / w.cols, c = i % w.cols;
        m = w.cols - c < end - i ? w.cols - c : end - i;
        m = m < BLOCK ? m : BLOCK;
        int32_t *bits = w.bits + i;
        if (!w.bound) {
            for (int64_t j = 0; j < m; j++) keys[j] = uint32_t(magnitude(bits[j]));
        } else if (w.axis == 1) {
            const int32_t bound = w.bound[r], cut = w.cut[r], first = int32_t(c);
            for (int32_t j = 0; j < int32_t(m); j++) {
                const int32_t key = magnitude(bits[j]);
                keys[j] = (key > bound) | ((key == bound) & (first + j <= cut)) ? PROTECTED : uint32_t(key);
            }
        } else {
            const int32_t *bound = w.bound + c, *cut = w.cut + c, row = int32_t(r);
            for (int64_t j = 0; j < m; j++) {
                const int32_t key = magnitude(bits[j]);
                keys[j] = (key > bound[j]) | ((key == bound[j]) & (row <= cut[j])) ? PROTECTED : uint32_t(key);
            }
        }
        f(keys, bits, m);
    }
}

// Finds what each of 16 lines from `first` on protects. False where there is no memory.
bool protect(const Matrix &w, int64_t first, int64_t floor, int32_t *bound, int32_t *cut) {
    const int64_t lines = w.axis == 1 ? w.rows : w.cols, length = w.axis == 1 ? w.cols : w.rows;
    const int64_t here = lines - first < LINES ? lines - first : LINES;
    const int64_t stride = length + 16;  // not a power of two, at which all columns would share a cache set
    const size_t words = size_t(stride) * (w.axis == 1 ? 1 : LINES + 1);
    int32_t *keys = static_cast<int32_t *>(std::malloc(words * sizeof(int32_t)));
    if (!keys) return false;
    int32_t *columns = keys + stride, guess = 0;
    if (w.axis == 0)
        for (int64_t r = 0; r < length; r++)
            for (int64_t line = 0; line < here; line++) columns[line * stride + r] = w.bits[r * w.cols + first + line];
    for (int64_t line = 0; line < here; line++) {
        const int32_t *bits = w.axis == 1 ? w.bits + (first + line) * w.cols : columns + line * stride;
        Keys summary = make_keys(bits, keys, length);
        Kept kept = keep(keys, length, floor, summary, guess);
        bound[first + line] = kept.bound, cut[first + line] = kept.cut;
        guess = kept.bound;
    }
    std::free(keys);
    return true;
}

// Counts the digits of the keys that begin with `prefix`. The others count in spare bins, which is faster than a
// branch, and many spare bins, as even and odd tables, are faster than adding to the same word again and again.
template <int SHIFT, int BITS>
inline void count_digits(const uint32_t *keys, int64_t m, uint32_t prefix, uint32_t *even, uint32_t *odd) {
    constexpr bool FIRST = SHIFT + BITS == 32;
    constexpr int ABOVE = FIRST ? 0 : SHIFT + BITS;
    uint32_t slots[BLOCK], matches = 0;
    for (uint32_t j = 0; j < uint32_t(m); j++) {
        const bool match = FIRST || keys[j] >> ABOVE == prefix;
        slots[j] = match ? keys[j] >> SHIFT & ((1u << BITS) - 1) : BINS + j % SPARE;
        matches += match;
    }
    if (matches == 0) return;
    int64_t j = 0;
    for (; j + 1 < m; j += 2) even[slots[j]]++, odd[slots[j + 1]]++;
    if (j < m) even[slots[j]]++;
}

// The digit of the k-th largest among the keys that begin with `prefix`: their digits at `shift` are counted by parts
// into tables[part * TABLE + digit]. Lowers k to its rank within that digit.
template <int SHIFT, int BITS>
uint32_t find_digit(const Matrix &w, int64_t parts, int threads, uint32_t prefix, uint32_t *tables, int64_t &k) {
    const int64_t n = w.rows * w.cols;
    parallel(parts, threads, [&](int64_t part) {
        uint32_t *table = tables + part * TABLE, odd[TABLE] = {};  // two tables: equal digits often follow each other
        std::memset(table, 0, TABLE * sizeof(uint32_t));
        for_blocks(w, n * part / parts, n * (part + 1) / parts, [&](const uint32_t *keys, int32_t *, int64_t m) {
            count_digits<SHIFT, BITS>(keys, m, prefix, table, odd);
        });
        for (int64_t digit = 0; digit < BINS; digit++) table[digit] += odd[digit];
    });
    for (uint32_t digit = (1u << BITS) - 1;; digit--) {
        int64_t count = 0;
        for (int64_t part = 0; part < parts; part++) count += tables[part * TABLE + digit];
        if (count >= k) return digit;
        k -= count;
    }
}

// Keeps the keys above `bound`, and of those equal to it the first `ties` of the `here` that lie in this range.
void clear(const Matrix &w, int64_t begin, int64_t end, uint32_t bound, int64_t ties, int64_t here) {
    for_blocks(w, begin, end, [&](const uint32_t *keys, int32_t *bits, int64_t m) {
        if (ties == here)
            for (int64_t j = 0; j < m; j++) bits[j] = keys[j] >= bound ? bits[j] : 0;
        else if (ties == 0)
            for (int64_t j = 0; j < m; j++) bits[j] = keys[j] > bound ? bits[j] : 0;
        else
            for (int64_t j = 0; j < m; j++) {
                const bool tie = keys[j] == bound;
                if (keys[j] < bound || (tie && ties == 0)) bits[j] = 0;
                ties -= tie && ties > 0, here -= tie;
            }
    });
}

void select(const Matrix &w, int64_t k, int threads, uint32_t *tables) {
    const int64_t n = w.rows * w.cols, parts = threads;
    int64_t ties = k;
    uint32_t bound = find_digit<21, 11>(w, parts, threads, 0, tables, ties);
    bound = bound << 11 | find_digit<10, 11>(w, parts, threads, bound, tables, ties);
    const uint32_t last = find_digit<0, 10>(w, parts, threads, bound, tables, ties);
    bound = bound << 10 | last;
    parallel(parts, threads, [&](int64_t part) {
        int64_t before = 0;
        for (int64_t p = 0; p < part; p++) before += tables[p * TABLE + last];
        const int64_t here = tables[part * TABLE + last], left = ties > before ? ties - before : 0;
        clear(w, n * part / parts, n * (part + 1) / parts, bound, left < here ? left : here, here);
    });
}

}  // namespace

// w (rows, cols) keeps its k largest magnitudes in place, the `floor` largest of every row (axis 1) or column (axis
// 0) among them; floor <= length of a line, floor * lines <= k, 0 < k < rows * cols. Returns 0, or 1 where there was
// no memory.
extern "C" int FUNCTION(keep_topk)(int32_t *bits, int64_t rows, int64_t cols, int64_t k, int64_t floor, int axis,
                                   int threads) {
    const int64_t lines = axis == 1 ? rows : cols;
    if (rows * cols < 2 * BLOCK) threads = 1;
    const size_t words = size_t(TABLE) * threads + 2 * size_t(lines);
    uint32_t *tables = static_cast<uint32_t *>(std::malloc(words * sizeof(uint32_t)));
    if (!tables) return 1;
    int32_t *bound = reinterpret_cast<int32_t *>(tables + TABLE * threads), *cut = bound + lines;
    int failed = 0;
    Matrix w{bits, rows, cols, nullptr, nullptr, axis};
    if (floor > 0) {
        parallel((lines + LINES - 1) / LINES, threads, [&](int64_t part) {
            if (!protect(w, part * LINES, floor, bound, cut)) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        });
        w.bound = bound, w.cut = cut;
    }
    if (!failed) select(w, k, threads, tables);
    std::free(tables);
    return failed;
}
