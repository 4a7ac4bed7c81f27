// A dense weight, most of which is zero, as its non-zeros: by rows, and, for the products with its transpose, by
// columns. A non-zero is any entry but 0 and -0, so also NaN.
#include "parallel.h"
#include "variant.h"
#include "vector.h"

namespace {

// A row's non-zeros, their columns and values; of both, the first `room` may be overwritten.
inline void copy_nonzeros(const int32_t *row, int64_t cols, int32_t *columns, int32_t *values, int64_t room) {
    int64_t n = 0, c = 0;
    IntVec at, v;
    for (int i = 0; i < LANES; i++) at[i] = i;
    for (; c + LANES <= cols && n + LANES <= room; c += LANES, at += LANES) {
        std::memcpy(&v, row + c, sizeof v);
        const IntVec some = (v & MAGNITUDE) != 0;
        put_chosen(values + n, some, v);
        n += put_chosen(columns + n, some, at);
    }
    for (; c < cols; c++)
        if (row[c] & MAGNITUDE) columns[n] = int32_t(c), values[n++] = row[c];
}

}  // namespace

// starts (rows + 1,): where each row's non-zeros of w (rows, cols) will begin; returns how many there are in all.
extern "C" int64_t FUNCTION(compress_starts)(const int32_t *w, int32_t *starts, int64_t rows, int64_t cols,
                                             int threads) {
    const int64_t step = rows_a_part(cols);
    parallel((rows + step - 1) / step, threads, [=](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        for (int64_t r = part * step; r < end; r++) {
            int32_t count = 0;
            for (int64_t c = 0; c < cols; c++) count += (w[r * cols + c] & MAGNITUDE) != 0;
            starts[r + 1] = count;
        }
    });
    int64_t total = starts[0] = 0;
    for (int64_t r = 0; r < rows; r++) starts[r + 1] = int32_t(total += starts[r + 1]);
    return total;
}

// Fills, for w (rows, cols) and its `starts`: by rows, columns and values (nonzeros,); by columns, t_starts
// (cols + 1,), t_rows and `order` (nonzeros,), the places of their values in `values`.
extern "C" void FUNCTION(compress)(const int32_t *w, const int32_t *starts, int32_t *columns, int32_t *values,
                                   int32_t *t_starts, int32_t *t_rows, int32_t *order, int64_t rows, int64_t cols,
                                   int threads) {
    const int64_t step = rows_a_part(cols);
    parallel((rows + step - 1) / step, threads, [=](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        for (int64_t r = part * step; r < end; r++) {
            const int32_t k = starts[r];
            copy_nonzeros(w + r * cols, cols, columns + k, values + k, starts[end] - k);
        }
    });
    std::memset(t_starts, 0, size_t(cols + 1) * sizeof(int32_t));
    const int32_t nonzeros = starts[rows];
    for (int32_t k = 0; k < nonzeros; k++) t_starts[columns[k] + 1]++;
    for (int64_t c = 0; c < cols; c++) t_starts[c + 1] += t_starts[c];
    for (int64_t r = 0; r < rows; r++)
        for (int32_t k = starts[r]; k < starts[r + 1]; k++) {
            const int32_t place = t_starts[columns[k]]++;
            t_rows[place] = int32_t(r), order[place] = k;
        }
    // Every start was moved to the end of its column, the start of the next.
    std::memmove(t_starts + 1, t_starts, size_t(cols) * sizeof(int32_t));
    t_starts[0] = 0;
}
