// AbsTopK: each row keeps its k largest magnitudes (paper, A.1), forward and backward. The same in PyTorch: twins.py.
//
// Compiled once per instruction set, with VARIANT naming it; dispatch.cpp calls the best that the processor has.
#include "parallel.h"
#include "select_row.h"
#include "variant.h"

// x, y (rows, d): y is x with all but the k largest magnitudes of each row set to zero. zero_cut (rows,): the last
// index at which a zero was kept, -1 where none was; or null.
extern "C" void FUNCTION(abs_topk)(const int32_t *x, int32_t *y, int32_t *zero_cut, int64_t rows, int64_t d, int64_t k,
                                   int threads) {
    const int64_t step = rows_a_part(d);
    parallel((rows + step - 1) / step, threads, [=](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        int32_t guess = 0;
        for (int64_t r = part * step; r < end; r++)
            guess = one_row(x + r * d, y + r * d, zero_cut ? zero_cut + r : nullptr, d, k, guess);
    });
}

// dx = dy where y's entry was kept: y != 0, or its index is at most the row's zero_cut.
extern "C" void FUNCTION(abs_topk_backward)(const int32_t *dy, const int32_t *y, const int32_t *zero_cut, int32_t *dx,
                                            int64_t rows, int64_t d, int threads) {
    const int64_t step = rows_a_part(d);
    parallel((rows + step - 1) / step, threads, [=](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        for (int64_t r = part * step; r < end; r++)
            passed_row(dy + r * d, y + r * d, zero_cut[r], dx + r * d, d);
    });
}

// zero_cut (rows,) as abs_topk gave it, from y alone: the zeros that were kept are the first ones of a row.
extern "C" void FUNCTION(abs_topk_zero_cut)(const int32_t *y, int32_t *zero_cut, int64_t rows, int64_t d, int64_t k,
                                            int threads) {
    const int64_t step = rows_a_part(d);
    parallel((rows + step - 1) / step, threads, [=](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        for (int64_t r = part * step; r < end; r++) {
            const int32_t *row = y + r * d;
            int32_t left = int32_t(k), cut = -1;
            for (int64_t j = 0; j < d; j++) left -= (row[j] & MAGNITUDE) != 0;
            for (int32_t j = 0; left > 0 && j < int32_t(d); j++)
                if ((row[j] & MAGNITUDE) == 0) left--, cut = j;
            zero_cut[r] = cut;
        }
    });
}
