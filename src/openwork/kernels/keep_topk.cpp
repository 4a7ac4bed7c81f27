// The projection: a matrix keeps its k largest magnitudes, each line at least its own `floor` largest. The same in
// PyTorch: twins.py.
//
// A sample says between which two keys the k-th largest must lie; those few are gathered in one pass over the matrix, and
// the k-th found among them by counting digits, the highest first (a radix histogram of 11, 11 and 10 bits). Where the
// sample was wrong, or too many keys are equal, digits are counted over the whole matrix. A last pass writes zeros. What
// a line protects is not marked in memory: it is a bound and a cut per line.
#include <cstdlib>

#include "parallel.h"
#include "threshold.h"
#include "variant.h"
#include "vector.h"

namespace {

constexpr int64_t BLOCK = 1024, ROWS = 16, COLUMNS = 64, BINS = 2048, SPARE = 16, TABLE = BINS + SPARE;
constexpr int64_t SAMPLE = 4096, ENOUGH = 1 << 16;  // a matrix of fewer entries is not worth a sample
constexpr int32_t PROTECTED = NOT_A_NUMBER + 1;

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
    int32_t keys[BLOCK];
    for (int64_t i = begin, m; i < end; i += m) {
        const int64_t r = i / w.cols, c = i % w.cols;
        m = w.cols - c < end - i ? w.cols - c : end - i;
        m = m < BLOCK ? m : BLOCK;
        int32_t *bits = w.bits + i;
        if (!w.bound) {
            for (int64_t j = 0; j < m; j++) keys[j] = magnitude(bits[j]);
        } else if (w.axis == 1) {
            const int32_t bound = w.bound[r], cut = w.cut[r], first = int32_t(c);
            for (int32_t j = 0; j < int32_t(m); j++) {
                const int32_t key = magnitude(bits[j]);
                keys[j] = (key > bound) | ((key == bound) & (first + j <= cut)) ? PROTECTED : key;
            }
        } else {
            const int32_t *bound = w.bound + c, *cut = w.cut + c, row = int32_t(r);
            for (int64_t j = 0; j < m; j++) {
                const int32_t key = magnitude(bits[j]);
                keys[j] = (key > bound[j]) | ((key == bound[j]) & (row <= cut[j])) ? PROTECTED : key;
            }
        }
        f(keys, bits, m);
    }
}

// Each of m columns sees one key more: largest[i * COLUMNS + column] is the i-th largest, of n, that it has seen.
inline void see(int32_t *largest, int64_t n, const int32_t *bits, int64_t m) {
    int32_t keys[COLUMNS];
    for (int64_t j = 0; j < m; j++) keys[j] = magnitude(bits[j]);
    for (; m % LANES; m++) keys[m] = -1;
    for (int64_t column = 0; column < m; column += LANES) {
        int32_t *at = largest + column, *last = at + (n - 1) * COLUMNS;
        IntVec key, other;
        std::memcpy(&key, keys + column, sizeof key);
        std::memcpy(&other, last, sizeof other);
        if (!any(key > other)) continue;
        for (; at <= last; at += COLUMNS) {
            std::memcpy(&other, at, sizeof other);
            const IntVec larger = key > other ? key : other;
            key = key > other ? other : key;
            std::memcpy(at, &larger, sizeof larger);
        }
    }
}

// Finds what each of at most COLUMNS columns from `first` on protects. False where there is no memory.
bool protect_columns(const Matrix &w, int64_t first, int64_t floor, int32_t *bound, int32_t *cut) {
    const int64_t here = w.cols - first < COLUMNS ? w.cols - first : COLUMNS, n = floor + 1;
    const Scratch memory(n * COLUMNS);
    if (!memory.data) return false;
    int32_t *largest = reinterpret_cast<int32_t *>(memory.data);
    std::memset(largest, -1, size_t(n * COLUMNS) * sizeof(int32_t));
    const int32_t *bits = w.bits + first;
    for (int64_t r = 0; r < w.rows; r++) see(largest, n, bits + r * w.cols, here);
    for (int64_t c = 0; c < here; c++) {
        const int32_t *own = largest + c, last = own[(floor - 1) * COLUMNS];
        Kept kept{last - 1, -1};
        if (own[floor * COLUMNS] == last) {  // equal keys straddle the floor
            int64_t ties = floor;
            for (int64_t i = 0; i < floor; i++) ties -= own[i * COLUMNS] > last;
            kept = {last, 0};
            while (magnitude(bits[kept.cut * w.cols + c]) != last || --ties > 0) kept.cut++;
        }
        bound[first + c] = kept.bound, cut[first + c] = kept.cut;
    }
    return true;
}

// The same of at most ROWS rows.
bool protect_rows(const Matrix &w, int64_t first, int64_t floor, int32_t *bound, int32_t *cut) {
    const Scratch memory(w.cols);
    if (!memory.data) return false;
    int32_t *keys = reinterpret_cast<int32_t *>(memory.data), guess = 0;
    for (int64_t r = first; r < first + ROWS && r < w.rows; r++) {
        const Keys summary = make_keys(w.bits + r * w.cols, keys, w.cols);
        const Kept kept = keep(keys, w.cols, floor, summary, guess);
        bound[r] = kept.bound, cut[r] = kept.cut;
        guess = kept.bound;
    }
    return true;
}

// Counts the digits of the keys that begin with `prefix`. The others count in spare bins, which is faster than a
// branch, and many spare bins, as even and odd tables, are faster than adding to the same word again and again.
template <int SHIFT, int BITS>
inline void count_digits(const int32_t *keys, int64_t m, int32_t prefix, uint32_t *even, uint32_t *odd) {
    constexpr bool FIRST = SHIFT + BITS == 32;
    constexpr int ABOVE = FIRST ? 0 : SHIFT + BITS;
    uint32_t slots[BLOCK], matches = 0;
    for (uint32_t j = 0; j < uint32_t(m); j++) {
        const bool match = FIRST || keys[j] >> ABOVE == prefix;
        slots[j] = match ? uint32_t(keys[j] >> SHIFT) & ((1u << BITS) - 1) : BINS + j % SPARE;
        matches += match;
    }
    if (matches == 0) return;
    int64_t j = 0;
    for (; j + 1 < m; j += 2) even[slots[j]]++, odd[slots[j + 1]]++;
    if (j < m) even[slots[j]]++;
}

// The digit of the k-th largest among the keys that begin with `prefix`: their digits at SHIFT are counted by parts
// into tables[part * TABLE + digit]. Lowers k to its rank within that digit. keys(part, f) calls f(keys, m) for blocks.
template <int SHIFT, int BITS, class F>
int32_t find_digit(F keys, int64_t parts, int threads, int32_t prefix, uint32_t *tables, int64_t &k) {
    parallel(parts, threads, [&](int64_t part) {
        uint32_t *table = tables + part * TABLE, odd[TABLE] = {};  // two tables: equal digits often follow each other
        std::memset(table, 0, TABLE * sizeof(uint32_t));
        keys(part, [&](const int32_t *some, int64_t m) { count_digits<SHIFT, BITS>(some, m, prefix, table, odd); });
        for (int64_t digit = 0; digit < BINS; digit++) table[digit] += odd[digit];
    });
    for (int32_t digit = (1 << BITS) - 1;; digit--) {
        int64_t count = 0;
        for (int64_t part = 0; part < parts; part++) count += tables[part * TABLE + digit];
        if (count >= k) return digit;
        k -= count;
    }
}

// The k-th largest of all parts' keys. Lowers k to its rank among those equal to it, and leaves how many of these each
// part has in tables[part * TABLE + (the result & 1023)].
template <class F>
int32_t find_key(F keys, int64_t parts, int threads, uint32_t *tables, int64_t &k) {
    int32_t bound = find_digit<21, 11>(keys, parts, threads, 0, tables, k);
    bound = bound << 11 | find_digit<10, 11>(keys, parts, threads, bound, tables, k);
    return bound << 10 | find_digit<0, 10>(keys, parts, threads, bound, tables, k);
}

// The keys from `low` to `high`, by parts, and how many lie above.
struct Candidates {
    int32_t low, high;
    int32_t *keys;
    int64_t room;        // that each part has in `keys`
    int64_t *n, *above;  // of each part; more than room: there were too many
};

// Between which keys the k-th largest of the matrix lies, but for one case in thousands.
void estimate(const Matrix &w, int64_t k, Candidates &c) {
    int32_t sample[SAMPLE];
    const int64_t n = w.rows * w.cols;
    Keys summary{0, 0};
    for (int64_t i = 0; i < SAMPLE; i++) {  // evenly spread, in step with no line: multiples of the golden ratio
        const int64_t at = int64_t((uint64_t(uint32_t(i) * 0x9e3779b9u) * uint64_t(n)) >> 32);
        for_blocks(w, at, at + 1, [&](const int32_t *key, int32_t *, int64_t) {
            sample[i] = *key;
            summary.largest = summary.largest > *key ? summary.largest : *key, summary.nonzero += *key != 0;
        });
    }
    const double share = double(k) / double(n), expected = share * SAMPLE;
    const int64_t slack = int64_t(4 * __builtin_sqrt(expected * (1 - share))) + 2;
    const int64_t few = int64_t(expected) - slack, many = int64_t(expected) + slack;
    c.low = many < SAMPLE ? find_bound(sample, SAMPLE, many, summary, 0).value : 0;
    c.low = c.low > 0 ? c.low : 1;  // there may be far too many zeros; where some are among the k, digits are counted
    c.high = few > 0 ? find_bound(sample, SAMPLE, few, summary, c.low).value : PROTECTED;
}

// Copies those of the m keys that lie from `low` to `high`, and writes up to LANES more; returns how many.
inline int64_t copy_between(const int32_t *keys, int64_t m, int32_t low, int32_t high, int32_t *to) {
    int64_t n = 0, j = 0;
    for (IntVec v; j + LANES <= m; j += LANES) {
        std::memcpy(&v, keys + j, sizeof v);
        n += put_chosen(to + n, (v >= low) & (v <= high), v);
    }
    for (; j < m; j++) to[n] = keys[j], n += (keys[j] >= low) & (keys[j] <= high);
    return n;
}

void gather(const Matrix &w, int64_t begin, int64_t end, const Candidates &c, int64_t part) {
    int32_t *keys = c.keys + part * c.room;
    int64_t n = 0, above = 0;
    for_blocks(w, begin, end, [&](const int32_t *key, int32_t *, int64_t m) {
        if (n + m + LANES > c.room) return void(n = c.room + 1);
        above += at_least(key, m, c.high + 1);
        n += copy_between(key, m, c.low, c.high, keys + n);
    });
    c.n[part] = n, c.above[part] = above;
}

// Keeps the keys above `bound`, and of those equal to it the first `ties` of the `here` that lie in this range.
void clear(const Matrix &w, int64_t begin, int64_t end, int32_t bound, int64_t ties, int64_t here) {
    for_blocks(w, begin, end, [&](const int32_t *keys, int32_t *bits, int64_t m) {
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

// Finds the k-th largest among a few candidates; false where they do not have it.
bool find_among_few(const Matrix &w, int64_t parts, int threads, uint32_t *tables, int32_t &bound, int64_t &k) {
    const int64_t n = w.rows * w.cols, room = n / (8 * parts) + 2 * BLOCK;
    if (n < ENOUGH) return false;
    Scratch keys(parts * room), counts(4 * parts);
    if (!keys.data || !counts.data) return false;
    int64_t *found = reinterpret_cast<int64_t *>(counts.data), *above = found + parts, all = 0, more = 0;
    Candidates c{0, 0, reinterpret_cast<int32_t *>(keys.data), room, found, above};
    estimate(w, k, c);
    parallel(parts, threads, [&](int64_t part) { gather(w, n * part / parts, n * (part + 1) / parts, c, part); });
    for (int64_t part = 0; part < parts; part++) {
        if (found[part] > room) return false;
        all += found[part], more += above[part];
    }
    if (more >= k || more + all < k) return false;
    k -= more;
    bound = find_key([&](int64_t part, auto f) {
        for (int64_t i = 0; i < found[part]; i += BLOCK)
            f(c.keys + part * room + i, found[part] - i < BLOCK ? found[part] - i : BLOCK);
    }, parts, threads, tables, k);
    return true;
}

void select(const Matrix &w, int64_t k, int threads, uint32_t *tables) {
    const int64_t n = w.rows * w.cols, parts = threads;
    int64_t ties = k;
    int32_t bound;
    if (!find_among_few(w, parts, threads, tables, bound, ties))
        bound = find_key([&](int64_t part, auto f) {
            for_blocks(w, n * part / parts, n * (part + 1) / parts,
                       [&](const int32_t *keys, int32_t *, int64_t m) { f(keys, m); });
        }, parts, threads, tables, ties);
    parallel(parts, threads, [&](int64_t part) {
        const uint32_t *equal = tables + (bound & 1023);
        int64_t before = 0;
        for (int64_t p = 0; p < part; p++) before += equal[p * TABLE];
        const int64_t here = equal[part * TABLE], left = ties > before ? ties - before : 0;
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
        const int64_t step = axis == 1 ? ROWS : COLUMNS;
        const auto protect = axis == 1 ? protect_rows : protect_columns;
        parallel((lines + step - 1) / step, threads, [&](int64_t part) {
            if (!protect(w, part * step, floor, bound, cut)) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        });
        w.bound = bound, w.cut = cut;
    }
    if (!failed) select(w, k, threads, tables);
    std::free(tables);
    return failed;
}
