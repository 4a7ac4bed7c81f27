// Products with a matrix that is mostly zero, as AbsTopK leaves activations and their gradients: C = A B + bias at
// the cost of A's non-zeros, B being dense.
//
// First the non-zeros of A are listed, row by row for DEPTH columns at a time. Then every tile of C, a few hundred
// rows of a few vectors, waits in a core's second cache while each row gets its non-zeros times rows of B. Of B, DEPTH
// rows as wide as the tile are copied into the first cache, which feeds one multiply-add with each load. A zero of A
// multiplies nothing. Each entry of C is summed in order, however the tiles are divided.
#include "parallel.h"
#include "variant.h"
#include "vector.h"

namespace {

constexpr int64_t DEPTH = 64, ROWS = 512, VECTORS = 8;

// A matrix (rows, columns) in memory by rows or, if it is turned, by columns.
struct Matrix {
    const float *data;
    int64_t rows, columns;
    bool turned;
};

// The non-zeros of A: those of row r in the b-th DEPTH columns are from starts[b * (rows + 1) + r] on in that block's
// part of `values` and `places`, rows * DEPTH long; places are columns less b * DEPTH.
struct Lists {
    float *values;
    int32_t *places;
    int64_t *starts;
};

void list_block(const Matrix &a, int64_t b, const Lists &lists) {
    const int64_t first = b * DEPTH, here = a.columns - first < DEPTH ? a.columns - first : DEPTH;
    int32_t *values = reinterpret_cast<int32_t *>(lists.values + b * a.rows * DEPTH);
    int32_t *places = lists.places + b * a.rows * DEPTH;
    int64_t *starts = lists.starts + b * (a.rows + 1), n = 0;
    alignas(64) float rows[LANES * DEPTH];
    for (int64_t r = 0; r < a.rows; r++) {
        const float *row = a.data + r * a.columns + first;
        if (a.turned) {
            const int64_t left = a.rows - r < LANES ? a.rows - r : LANES;
            if (r % LANES == 0) to_lanes<DEPTH>(a.data + first * a.rows + r, a.rows, here, left, rows);
            row = rows + r % LANES * DEPTH;
        }
        starts[r] = n;
        IntVec place, bits;
        for (int i = 0; i < LANES; i++) place[i] = i;
        for (int64_t c = 0; c < here; c += LANES, place += LANES) {
            const Vec v = some(row + c, here - c < LANES ? here - c : LANES);
            std::memcpy(&bits, &v, sizeof bits);
            const IntVec chosen = (bits & MAGNITUDE) != 0;
            put_chosen(values + n, chosen, bits);
            n += put_chosen(places + n, chosen, place);
        }
    }
    starts[a.rows] = n;
}

// tile (end - first, N vectors) += rows first to end of A's b-th block, as `lists` has them, times `of_b`.
template <int N>
void add_block(const Lists &lists, int64_t b, int64_t rows, int64_t first, int64_t end, const float *of_b,
               float *tile) {
    const float *values = lists.values + b * rows * DEPTH;
    const int32_t *places = lists.places + b * rows * DEPTH;
    const int64_t *starts = lists.starts + b * (rows + 1);
    for (int64_t r = first; r < end; r++, tile += N * LANES) {
        Vec sums[N];
        for (int v = 0; v < N; v++) sums[v] = load(tile + v * LANES);
        for (int64_t i = starts[r]; i < starts[r + 1]; i++) {
            const Vec value = all(values[i]);
            const float *row = of_b + int64_t(places[i]) * N * LANES;
            for (int v = 0; v < N; v++) sums[v] += value * load(row + v * LANES);
        }
        for (int v = 0; v < N; v++) store(tile + v * LANES, sums[v]);
    }
}

// Rows first to end, columns from `column` on, as many as N vectors hold, of C (rows of A, columns of B).
template <int N>
bool make_tile(const Lists &lists, int64_t rows, const Matrix &b, const float *bias, int64_t first, int64_t end,
               int64_t column, float *c) {
    constexpr int64_t WIDTH = N * LANES;
    const int64_t width = b.columns - column < WIDTH ? b.columns - column : WIDTH;
    Scratch tile((end - first) * WIDTH), of_b(DEPTH * WIDTH);
    if (!tile.data || !of_b.data) return false;
    std::memset(of_b.data, 0, size_t(DEPTH * WIDTH) * sizeof(float));
    std::memset(tile.data, 0, size_t((end - first) * WIDTH) * sizeof(float));
    if (bias)
        for (int64_t r = 0; r < end - first; r++)
            std::memcpy(tile.data + r * WIDTH, bias + column, size_t(width) * sizeof(float));
    for (int64_t block = 0, k = 0; k < b.rows; block++, k += DEPTH) {
        const int64_t here = b.rows - k < DEPTH ? b.rows - k : DEPTH;
        const float *from = b.data + (b.turned ? column * b.rows + k : k * b.columns + column);
        if (b.turned)
            to_lanes<WIDTH>(from, b.rows, width, here, of_b.data);
        else
            for (int64_t i = 0; i < here; i++)
                std::memcpy(of_b.data + i * WIDTH, from + i * b.columns, size_t(width) * sizeof(float));
        add_block<N>(lists, block, rows, first, end, of_b.data, tile.data);
    }
    for (int64_t r = first; r < end; r++)
        std::memcpy(c + r * b.columns + column, tile.data + (r - first) * WIDTH, size_t(width) * sizeof(float));
    return true;
}

constexpr decltype(&make_tile<1>) MAKE_TILE[VECTORS] = {make_tile<1>, make_tile<2>, make_tile<3>, make_tile<4>,
                                                       make_tile<5>, make_tile<6>, make_tile<7>, make_tile<8>};

}  // namespace

// c (m, n) = a (m, k) times b (k, n), plus bias (n,) if that is not null; a and b lie in memory by rows or, if
// turned, by columns. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(skipping_product)(const float *a, const float *b, const float *bias, float *c, int64_t m,
                                          int64_t k, int64_t n, int64_t a_turned, int64_t b_turned, int threads) {
    const Matrix left{a, m, k, a_turned != 0}, right{b, k, n, b_turned != 0};
    const int64_t blocks = (k + DEPTH - 1) / DEPTH, most = blocks * m * DEPTH;
    Scratch values(most), memory(most), numbers(2 * blocks * (m + 1));
    if (!values.data || !memory.data || !numbers.data) return 1;
    int32_t *places = reinterpret_cast<int32_t *>(memory.data);
    const Lists lists{values.data, places, reinterpret_cast<int64_t *>(numbers.data)};
    parallel(blocks, threads, [&](int64_t block) { list_block(left, block, lists); });

    const int64_t vectors = (n + LANES - 1) / LANES, tiles = (vectors + VECTORS - 1) / VECTORS;
    const int64_t wide = (vectors + tiles - 1) / tiles;
    int64_t rows = ROWS;
    while (rows > DEPTH && tiles * ((m + rows - 1) / rows) < 2 * threads) rows /= 2;
    int failed = 0;
    parallel(tiles * ((m + rows - 1) / rows), threads, [&](int64_t part) {
        const int64_t first = part / tiles * rows, end = first + rows < m ? first + rows : m;
        const int64_t column = part % tiles * wide * LANES;
        if (column < n && !MAKE_TILE[wide - 1](lists, m, right, bias, first, end, column, c))
            __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    });
    return failed;
}
