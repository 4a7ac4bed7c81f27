// The projection: each matrix keeps its k largest magnitudes, each line at least its own `floor` largest. The same in
// PyTorch: twins.py.
//
// A sample says which key some three times `floor` entries of a line reach; where about that many do, these few decide
// what the line protects, else all of its keys. That is not marked in memory: it is a bound and a cut per line.
//
// The sample also says between which two keys the k-th largest must lie; those few are gathered in the same pass over the
// matrix, where lines are rows, and the k-th found among them by counting digits, the highest first (a radix histogram of
// 11, 11 and 10 bits). Where the sample was wrong, or too many keys are equal, digits are counted over the whole matrix.
// A last pass writes zeros.
#include "parallel.h"
#include "threshold.h"
#include "variant.h"
#include "vector.h"

namespace {

constexpr int64_t BLOCK = 1024, ROWS = 16, COLUMNS = 256, FEW = 64, BINS = 2048, SPARE = 16, TABLE = BINS + SPARE;
constexpr int64_t SAMPLE = 4096, RARE = 32;  // so many entries are looked at first, or one in so many
constexpr int64_t ENOUGH = 1 << 16;          // among fewer, the k-th largest is found without a sample
constexpr int32_t PROTECTED = NOT_A_NUMBER + 1;

// A matrix and what it is to keep, as the caller has it in memory.
struct Wanted {
    int32_t *bits;
    int64_t rows, cols, k, floor, axis;  // 1: lines are rows, 0: columns
};

struct Matrix {
    int32_t *bits;
    int64_t rows, cols, axis;
    int32_t *bound, *cut;  // of every line, see Kept; null without a floor
    bool straddled;        // whether lines are columns, and equal keys straddle the floor of one

    int64_t first_row(int64_t part, int64_t parts) const { return rows * part / parts; }
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

// Some of a matrix's keys, evenly spread and in step with no line: multiples of the golden ratio.
struct Sample {
    int32_t keys[SAMPLE];
    int64_t n, all;
    Keys summary{0, 0};
    explicit Sample(const Matrix &w) : all(w.rows * w.cols) {
        n = all / RARE < SAMPLE ? all / RARE : SAMPLE;
        for (int64_t i = 0; i < n; i++)
            keys[i] = w.bits[int64_t((uint64_t(uint32_t(i) * 0x9e3779b9u) * uint64_t(all)) >> 32)];
        summary = make_keys(keys, keys, n);
    }
    // A key that about k of all reach; with a `slack` above 0 (below 0) more (fewer) than k, but for one case in
    // thousands. 0 where the sample has no such key, PROTECTED where none may reach it.
    int32_t reached_by(int64_t k, int slack) const {
        const double share = k < all ? double(k) / double(all) : 1, expected = share * double(n);
        const int64_t rank = int64_t(expected) + slack * (int64_t(4 * __builtin_sqrt(expected * (1 - share))) + 2);
        return rank >= n ? 0 : rank > 0 ? find_bound(keys, n, rank, summary, 0).value : PROTECTED;
    }
};

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

// What the `floor` largest of a line are, if these n keys are all from some key on; there is room for FEW. False where
// they do not say it: too few, too many, or equal ones straddle the floor.
inline bool keep_of_few(int32_t *keys, int64_t n, int64_t floor, Kept &kept) {
    if (n < floor || n > FEW) return false;
    const int64_t padded = (n + LANES - 1) / LANES * LANES;
    for (int64_t j = n; j < padded; j++) keys[j] = -1;
    int32_t above[FEW] = {}, last = PROTECTED, reached = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < padded; j++) above[j] += keys[i] > keys[j];
    for (int64_t j = 0; j < padded; j++) last = (above[j] < floor) & (keys[j] < last) ? keys[j] : last;
    for (int64_t j = 0; j < padded; j++) reached += keys[j] >= last;
    kept = {last - 1, -1};
    return reached == floor;
}

// Finds what each of the rows from `first` to `end` protects. `guess` is a key that few of a row reach; `keys` has room
// for two rows and LANES.
void protect_rows(const Matrix &w, int64_t first, int64_t end, int64_t floor, int32_t guess, int32_t *keys) {
    int32_t *few = keys + w.cols;
    for (int64_t r = first; r < end; r++) {
        const Keys summary = make_keys(w.bits + r * w.cols, keys, w.cols);
        Kept kept;
        if (!keep_of_few(few, copy_between(keys, w.cols, guess, NOT_A_NUMBER, few), floor, kept))
            kept = keep(keys, w.cols, floor, summary, guess);
        w.bound[r] = kept.bound, w.cut[r] = kept.cut;
    }
}

// The keys of at most COLUMNS columns from `bits` on that reach `guess`, each column's in its own line of `few`; how many
// they are in n, also where that is more than FEW.
void few_of_columns(const Matrix &w, const int32_t *bits, int64_t columns, int32_t guess, int32_t *few, int32_t *n) {
    int32_t keys[COLUMNS], at[ROWS * COLUMNS + LANES], found[ROWS * COLUMNS + LANES];
    for (int64_t j = 0; j < COLUMNS; j++) keys[j] = -1, n[j] = 0;
    IntVec lane, key;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int64_t r = 0; r < w.rows; r += ROWS) {
        int64_t all = 0;
        for (int64_t row = r; row < r + ROWS && row < w.rows; row++) {
            for (int64_t j = 0; j < columns; j++) keys[j] = magnitude(bits[row * w.cols + j]);
            for (int32_t j = 0; j < columns; j += LANES) {
                std::memcpy(&key, keys + j, sizeof key);
                put_chosen(at + all, key >= guess, lane + j);
                all += put_chosen(found + all, key >= guess, key);
            }
        }
        for (int64_t i = 0; i < all; i++) {
            const int32_t j = at[i];
            if (n[j] < FEW) few[j * FEW + n[j]] = found[i];
            n[j]++;
        }
    }
}

// The same of at most COLUMNS columns from `first`. False where there was no memory.
bool protect_columns(const Matrix &w, int64_t first, int64_t floor, int32_t guess) {
    const int64_t columns = w.cols - first < COLUMNS ? w.cols - first : COLUMNS;
    const Scratch memory(COLUMNS * FEW + LANES * w.rows);
    if (!memory.data) return false;
    int32_t *few = reinterpret_cast<int32_t *>(memory.data), *keys = few + COLUMNS * FEW, n[COLUMNS], others[LANES];
    few_of_columns(w, w.bits + first, columns, guess, few, n);
    for (int64_t c = 0; c < columns;) {
        int64_t many = 0;
        for (Kept kept; c < columns && many < LANES; c++) {
            if (keep_of_few(few + c * FEW, n[c], floor, kept))
                w.bound[first + c] = kept.bound, w.cut[first + c] = kept.cut;
            else
                others[many++] = int32_t(first + c);
        }
        for (int64_t r = 0; r < w.rows; r++)
            for (int64_t i = 0; i < many; i++) keys[i * w.rows + r] = w.bits[r * w.cols + others[i]];
        for (int64_t i = 0; i < many; i++) {
            int32_t *own = keys + i * w.rows;
            const Keys summary = make_keys(own, own, w.rows);
            const Kept kept = keep(own, w.rows, floor, summary, guess);
            w.bound[others[i]] = kept.bound, w.cut[others[i]] = kept.cut;
        }
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

// Adds those of the flat range [begin, end).
void gather(const Matrix &w, int64_t begin, int64_t end, const Candidates &c, int64_t part) {
    int32_t *keys = c.keys + part * c.room;
    int64_t n = c.n[part], above = c.above[part];
    for_blocks(w, begin, end, [&](const int32_t *key, int32_t *, int64_t m) {
        if (n + m + LANES > c.room) return void(n = c.room + 1);
        above += at_least(key, m, c.high + 1);
        n += copy_between(key, m, c.low, c.high, keys + n);
    });
    c.n[part] = n, c.above[part] = above;
}

// Keeps, of row r, what is above `most` or above its line's bound.
void clear_row(const Matrix &w, int64_t r, int32_t most) {
    int32_t *__restrict bits = w.bits + r * w.cols;
    const int32_t *__restrict bound = w.bound;
    if (bound && w.axis == 0) {
        for (int64_t j = 0; j < w.cols; j++)
            bits[j] = magnitude(bits[j]) > (bound[j] < most ? bound[j] : most) ? bits[j] : 0;
    } else {
        most = bound && bound[r] < most ? bound[r] : most;
        for (int64_t j = 0; j < w.cols; j++) bits[j] = magnitude(bits[j]) > most ? bits[j] : 0;
    }
}

// In the rows from `first` to `end` keeps the keys above `bound`, and of those equal to it the first `ties` of the `here`
// that there are.
void clear(const Matrix &w, int64_t first, int64_t end, int32_t bound, int64_t ties, int64_t here) {
    for (int64_t r = first; r < end; r++) {
        const bool bounds_say_it = !w.bound || (w.axis == 1 ? w.cut[r] < 0 : !w.straddled);
        if (bounds_say_it && (ties == here || ties == 0)) {
            clear_row(w, r, ties > 0 ? bound - 1 : bound);
            continue;
        }
        for_blocks(w, r * w.cols, (r + 1) * w.cols, [&](const int32_t *keys, int32_t *bits, int64_t m) {
            for (int64_t j = 0; j < m; j++) {
                const bool tie = keys[j] == bound;
                if (keys[j] < bound || (tie && ties == 0)) bits[j] = 0;
                ties -= tie && ties > 0, here -= tie;
            }
        });
    }
}

// Finds the k-th largest among the candidates, and lowers k to its rank among those equal to it; false where they do not
// have it.
bool find_among(const Candidates &c, int64_t parts, int threads, uint32_t *tables, int32_t &bound, int64_t &k) {
    int64_t n = 0, above = 0;
    for (int64_t part = 0; part < parts; part++) {
        if (c.n[part] > c.room) return false;
        n += c.n[part], above += c.above[part];
    }
    if (above >= k || above + n < k) return false;
    k -= above;
    bound = find_key([&](int64_t part, auto f) {
        for (int64_t i = 0; i < c.n[part]; i += BLOCK)
            f(c.keys + part * c.room + i, c.n[part] - i < BLOCK ? c.n[part] - i : BLOCK);
    }, parts, threads, tables, k);
    return true;
}

// Keeps the k largest keys, those among them that are protected.
void keep_largest(const Matrix &w, const Candidates &c, int64_t k, int64_t parts, int threads, uint32_t *tables) {
    const auto flat = [&](int64_t part) { return w.first_row(part, parts) * w.cols; };
    int64_t ties = k;
    int32_t bound;
    if (c.room == 0 || !find_among(c, parts, threads, tables, bound, ties))
        bound = find_key([&](int64_t part, auto f) {
            for_blocks(w, flat(part), flat(part + 1), [&](const int32_t *keys, int32_t *, int64_t m) { f(keys, m); });
        }, parts, threads, tables, ties);
    parallel(parts, threads, [&](int64_t part) {
        const uint32_t *equal = tables + (bound & 1023);
        int64_t before = 0;
        for (int64_t p = 0; p < part; p++) before += equal[p * TABLE];
        const int64_t here = equal[part * TABLE], left = ties > before ? ties - before : 0;
        clear(w, w.first_row(part, parts), w.first_row(part + 1, parts), bound, left < here ? left : here, here);
    });
}

// Carries out what is wanted of one matrix. False where there was no memory; then it is unchanged.
bool keep_in(const Wanted &wanted, int threads) {
    const int64_t rows = wanted.rows, cols = wanted.cols, n = rows * cols, k = wanted.k;
    const bool one_line = rows == 1 && n < ENOUGH;  // which protects all that is kept
    const int64_t floor = one_line ? k : wanted.floor, axis = one_line ? 1 : wanted.axis;
    const int64_t lines = axis == 1 ? rows : cols, length = axis == 1 ? cols : rows;
    if (n < 2 * BLOCK) threads = 1;
    const int64_t parts = threads, room = n < ENOUGH ? 0 : n / (8 * parts) + 2 * BLOCK, two_rows = 2 * cols + LANES;
    const Scratch of_lines(2 * lines), of_parts(parts * (TABLE + 4 + two_rows + room));
    if (!of_lines.data || !of_parts.data) return false;
    int64_t *found = reinterpret_cast<int64_t *>(of_parts.data), *above = found + parts;
    uint32_t *tables = reinterpret_cast<uint32_t *>(above + parts);
    int32_t *row_keys = reinterpret_cast<int32_t *>(tables + parts * TABLE);
    std::memset(found, 0, size_t(2 * parts) * sizeof(int64_t));

    Matrix w{wanted.bits, rows, cols, axis, nullptr, nullptr, false};
    const Sample sample(w);
    const int32_t guess = floor > 0 ? sample.reached_by(3 * floor * lines, 0) : 0;
    if (floor > 0) w.bound = reinterpret_cast<int32_t *>(of_lines.data), w.cut = w.bound + lines;
    if (floor > 0 && axis == 0) {
        int failed = 0;
        parallel((cols + COLUMNS - 1) / COLUMNS, threads, [&](int64_t part) {
            if (!protect_columns(w, part * COLUMNS, floor, guess)) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        });
        if (failed) return false;
        for (int64_t c = 0; c < cols; c++) w.straddled |= w.cut[c] >= 0;
    }

    const int64_t others = k - floor * lines;  // so many are kept that no line protects
    const int32_t low = sample.reached_by(k, 1), high = sample.reached_by(others, -1);
    // There may be far too many zeros to gather them; where some are kept, digits are counted.
    const Candidates c{low > 0 ? low : 1, high, row_keys + parts * two_rows, room, found, above};
    parallel(parts, threads, [&](int64_t part) {
        for (int64_t r = w.first_row(part, parts), end = w.first_row(part + 1, parts); r < end; r += ROWS) {
            const int64_t next = r + ROWS < end ? r + ROWS : end;
            if (floor > 0 && axis == 1) protect_rows(w, r, next, floor, guess, row_keys + part * two_rows);
            if (others == 0)
                clear(w, r, next, NOT_A_NUMBER, 0, 0);  // all that is not protected
            else if (room > 0)
                gather(w, r * cols, next * cols, c, part);
        }
    });
    if (others > 0) keep_largest(w, c, k, parts, threads, tables);
    return true;
}

}  // namespace

// Each of the n matrices (rows, cols) keeps its k largest magnitudes in place, the `floor` largest of every row (axis 1)
// or column (axis 0) among them; floor <= length of a line, floor * lines <= k, 0 < k < rows * cols. Returns 0, or 1
// where there was no memory for one of them. Threads share a large matrix, and the small ones among them.
extern "C" int FUNCTION(keep_topk)(const void *matrices, int64_t n, int threads) {
    const Wanted *each = static_cast<const Wanted *>(matrices);
    int64_t all = 0;
    for (int64_t i = 0; i < n; i++) all += each[i].rows * each[i].cols;
    const auto large = [=](int64_t i) { return each[i].rows * each[i].cols > all / (4 * threads); };
    int failed = 0;
    for (int64_t i = 0; i < n; i++)
        if (large(i) && !keep_in(each[i], threads)) failed = 1;
    parallel(n, threads, [&](int64_t i) {
        if (!large(i) && !keep_in(each[i], 1)) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    });
    return failed;
}
