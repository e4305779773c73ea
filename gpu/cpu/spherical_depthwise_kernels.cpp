// Depthwise convolution on the sphere for CPUs: forward, gradient of the input, gradient of the filters.
//
// Fields are (batch, row, column, channel) in float or bfloat16; filters and sums are float. Columns go around the globe;
// a row beyond a pole is the row on this side of it, half-way around (forecast/layers/spherical_padding.py).
//
// What bounds it: 2 k^2 operations per value against 2 to 4 bytes, so arithmetic. Sixteen channels at a time are brought
// into a padded float panel; from there every value that is loaded serves all taps of a filter row. Columns are walked with
// the stride of the dilation, so that a dilated filter slides over neighbours just as a plain one does.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int LANES = 16;  // channels at a time: one AVX-512 register
constexpr int RUN = 8;     // outputs of one run along a row, kept in registers
constexpr int BAND = 24;   // rows of a panel, its halo apart

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

#define INLINE inline __attribute__((always_inline))

struct Shape {
    int64_t batch, rows, columns, channels;
    int kernel, dilation;
    bool has_poles;
    int reach() const { return dilation * (kernel / 2); }
};

INLINE void load(const float* from, int count, float* to) {
    if (count == LANES) {
        std::memcpy(to, from, sizeof(Lanes));
        return;
    }
    for (int c = 0; c < LANES; ++c) to[c] = c < count ? from[c] : 0.0f;
}

INLINE void load(const uint16_t* from, int count, float* to) {
    if (count == LANES) {
        Halves halves;
        std::memcpy(&halves, from, sizeof halves);
        const Bits bits = __builtin_convertvector(halves, Bits) << 16;
        std::memcpy(to, &bits, sizeof bits);
        return;
    }
    for (int c = 0; c < LANES; ++c) {
        const uint32_t bits = c < count ? uint32_t(from[c]) << 16 : 0u;
        std::memcpy(to + c, &bits, 4);
    }
}

INLINE void store(Lanes value, int count, float* to) {
    if (count == LANES) {
        std::memcpy(to, &value, sizeof value);
        return;
    }
    for (int c = 0; c < count; ++c) to[c] = value[c];
}

// Round to nearest, ties to even; not-a-number stays one.
INLINE void store(Lanes value, int count, uint16_t* to) {
    Bits bits;
    std::memcpy(&bits, &value, sizeof bits);
    const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Bits is_number = (bits & 0x7fffffffu) <= 0x7f800000u;
    const Halves halves = __builtin_convertvector((rounded & is_number) | (0x7fc0u & ~is_number), Halves);
    if (count == LANES) {
        std::memcpy(to, &halves, sizeof halves);
        return;
    }
    for (int c = 0; c < count; ++c) to[c] = halves[c];
}

// Memory that a thread keeps from call to call: fresh pages would cost as much as the filter.
struct Buffer {
    Lanes* values = nullptr;
    int64_t size = 0;
    Lanes* with_room_for(int64_t count) {
        if (size < count) {
            std::free(values);
            values = static_cast<Lanes*>(std::aligned_alloc(sizeof(Lanes), count * sizeof(Lanes)));
            size = count;
        }
        return values;
    }
    ~Buffer() { std::free(values); }
};
thread_local Buffer panels, lines_of_output, rows_beyond_north, rows_beyond_south;

// Sixteen channels of some rows, with columns continued around the globe by `reach` on both sides.
template <typename T>
struct Panel {
    Shape shape;
    int64_t width;
    Lanes* values;

    explicit Panel(const Shape& s)
        : shape(s), width(s.columns + 2 * s.reach()), values(panels.with_room_for((BAND + 2 * s.reach()) * width)) {}

    Lanes* row(int64_t r) { return values + r * width; }

    // Row `number` of the field into row `slot`; beyond the poles what lies there, or zeros.
    INLINE void fill(const T* field, int64_t slot, int64_t number, int count, bool over_poles) {
        const int64_t rows = shape.rows, columns = shape.columns, first = shape.has_poles;
        Lanes* to = row(slot);
        bool beyond = number < 0 || number >= rows;
        if (beyond && !over_poles) {
            std::memset(to, 0, width * sizeof(Lanes));
            return;
        }
        if (number < 0) number = -number - 1 + first;
        if (number >= rows) number = 2 * rows - 1 - first - number;
        const T* from = field + number * columns * shape.channels;
        int64_t column = ((beyond ? columns / 2 : 0) + 2 * columns - shape.reach()) % columns;
        for (int64_t x = 0; x < width; ++x) {
            load(from + column * shape.channels, count, reinterpret_cast<float*>(to + x));
            if (++column == columns) column = 0;
        }
    }
};

// One row of outputs from K rows of a panel, `step` rows apart.
template <int K>
INLINE void filter_row(Lanes* const* lines, const Lanes* taps, Lanes bias, int dilation, int64_t columns, Lanes* out) {
    for (int phase = 0; phase < dilation; ++phase) {
        for (int64_t begin = phase; begin < columns; begin += int64_t(RUN) * dilation) {
            const int64_t left = (columns - begin + dilation - 1) / dilation;
            Lanes sum[RUN];
            for (int k = 0; k < RUN; ++k) sum[k] = bias;
            if (left >= RUN) {
                for (int i = 0; i < K; ++i) {
                    const Lanes* value = lines[i] + begin;
                    const Lanes* tap = taps + i * K;
#pragma GCC unroll 32
                    for (int m = 0; m < RUN + K - 1; ++m) {
                        const Lanes v = value[m * dilation];
#pragma GCC unroll 16
                        for (int j = 0; j < K; ++j)
                            if (m - j >= 0 && m - j < RUN) sum[m - j] += tap[j] * v;
                    }
                }
                for (int k = 0; k < RUN; ++k) out[begin + k * dilation] = sum[k];
            } else {
                for (int64_t k = 0; k < left; ++k) {
                    Lanes one = bias;
                    for (int i = 0; i < K; ++i)
                        for (int j = 0; j < K; ++j) one += taps[i * K + j] * lines[i][begin + (k + j) * dilation];
                    out[begin + k * dilation] = one;
                }
            }
        }
    }
}

// Add to the gradient of one row of taps: products of a row of gradients with a row of a panel.
template <int K>
INLINE void correlate_row(const Lanes* line, const Lanes* gradient, int dilation, int64_t columns, Lanes* sums) {
    Lanes sum[K];
    for (int j = 0; j < K; ++j) sum[j] = sums[j];
    for (int phase = 0; phase < dilation; ++phase) {
        int64_t begin = phase;
        for (; begin + int64_t(RUN - 1) * dilation < columns; begin += int64_t(RUN) * dilation) {
            Lanes g[RUN];
#pragma GCC unroll 16
            for (int k = 0; k < RUN; ++k) g[k] = gradient[begin + k * dilation];
#pragma GCC unroll 32
            for (int m = 0; m < RUN + K - 1; ++m) {
                const Lanes v = line[begin + m * dilation];
#pragma GCC unroll 16
                for (int j = 0; j < K; ++j)
                    if (m - j >= 0 && m - j < RUN) sum[j] += g[m - j] * v;
            }
        }
        for (; begin < columns; begin += dilation)
            for (int j = 0; j < K; ++j) sum[j] += gradient[begin] * line[begin + j * dilation];
    }
    for (int j = 0; j < K; ++j) sums[j] = sum[j];
}

INLINE void pack_taps(const float* weight, const Shape& s, int64_t first, int count, bool flipped, Lanes* taps) {
    const int area = s.kernel * s.kernel;
    for (int t = 0; t < area; ++t)
        for (int c = 0; c < LANES; ++c)
            taps[t][c] = c < count ? weight[(first + c) * area + (flipped ? area - 1 - t : t)] : 0.0f;
}

// Filter rows [begin, end) of the field; `take` gets each row's number and its values.
template <int K, typename T, typename Take>
INLINE void filter_rows(
    const T* field, Panel<T>& panel, const Lanes* taps, Lanes bias, int count, int64_t begin, int64_t end, bool over_poles,
    Lanes* out, Take take
) {
    const Shape& s = panel.shape;
    const int reach = s.reach();
    for (int64_t band = begin; band < end; band += BAND) {
        const int64_t last = std::min(end, band + BAND);
        for (int64_t r = band - reach; r < last + reach; ++r) panel.fill(field, r - band + reach, r, count, over_poles);
        for (int64_t y = band; y < last; ++y) {
            Lanes* lines[K];
            for (int i = 0; i < K; ++i) lines[i] = panel.row(y - band + i * s.dilation);
            filter_row<K>(lines, taps, bias, s.dilation, s.columns, out);
            take(y, out);
        }
    }
}

template <int K, typename T>
INLINE void forward_panel(const Shape& s, const T* x, const float* weight, const float* bias, T* out, int64_t task) {
    const int64_t blocks = (s.channels + LANES - 1) / LANES, b = task / blocks, first = task % blocks * LANES;
    const int count = int(std::min<int64_t>(LANES, s.channels - first));
    const int64_t offset = b * s.rows * s.columns * s.channels + first;
    Lanes taps[K * K], start = {};
    pack_taps(weight, s, first, count, false, taps);
    if (bias) load(bias + first, count, reinterpret_cast<float*>(&start));
    Panel<T> panel(s);
    filter_rows<K>(x + offset, panel, taps, start, count, 0, s.rows, true, lines_of_output.with_room_for(s.columns), [&](int64_t y, const Lanes* values) {
        T* to = out + offset + y * s.columns * s.channels;
        for (int64_t c = 0; c < s.columns; ++c) store(values[c], count, to + c * s.channels);
    });
}

// The adjoint: filter the gradients, zeros beyond the poles, and add what falls beyond them to the rows it came from.
template <int K, typename T>
INLINE void input_gradient_panel(const Shape& s, const T* gradient, const float* weight, T* out, int64_t task) {
    const int64_t blocks = (s.channels + LANES - 1) / LANES, b = task / blocks, first = task % blocks * LANES;
    const int count = int(std::min<int64_t>(LANES, s.channels - first));
    const int64_t offset = b * s.rows * s.columns * s.channels + first, columns = s.columns, half = columns / 2;
    const int reach = s.reach(), pole = s.has_poles;
    Lanes taps[K * K];
    pack_taps(weight, s, first, count, true, taps);
    Panel<T> panel(s);
    Lanes* line = lines_of_output.with_room_for(columns);
    Lanes* north = rows_beyond_north.with_room_for(reach * columns);
    Lanes* south = rows_beyond_south.with_room_for(reach * columns);
    const Lanes none = {};
    const auto keep = [&](Lanes* rows, int64_t number, const Lanes* values) {
        for (int64_t c = 0; c < columns; ++c) rows[number * columns + (c + half) % columns] = values[c];
    };
    filter_rows<K>(gradient + offset, panel, taps, none, count, -reach, 0, false, line,
                   [&](int64_t y, const Lanes* values) { keep(north, -1 - y, values); });
    filter_rows<K>(gradient + offset, panel, taps, none, count, s.rows, s.rows + reach, false, line,
                   [&](int64_t y, const Lanes* values) { keep(south, y - s.rows, values); });
    filter_rows<K>(gradient + offset, panel, taps, none, count, 0, s.rows, false, line,
                   [&](int64_t y, Lanes* values) {
                       const int64_t from_north = y - pole, from_south = s.rows - 1 - pole - y;
                       if (from_north >= 0 && from_north < reach)
                           for (int64_t c = 0; c < columns; ++c) values[c] += north[from_north * columns + c];
                       if (from_south >= 0 && from_south < reach)
                           for (int64_t c = 0; c < columns; ++c) values[c] += south[from_south * columns + c];
                       T* to = out + offset + y * columns * s.channels;
                       for (int64_t c = 0; c < columns; ++c) store(values[c], count, to + c * s.channels);
                   });
}

template <int K, typename T>
INLINE void filter_gradient_panel(const Shape& s, const T* x, const T* gradient, float* out, int64_t task) {
    const int64_t blocks = (s.channels + LANES - 1) / LANES, b = task / blocks, first = task % blocks * LANES;
    const int count = int(std::min<int64_t>(LANES, s.channels - first)), reach = s.reach();
    const int64_t offset = b * s.rows * s.columns * s.channels + first;
    Panel<T> panel(s);
    Lanes* line = lines_of_output.with_room_for(s.columns);
    Lanes sums[K * K + 1] = {};
    for (int64_t band = 0; band < s.rows; band += BAND) {
        const int64_t last = std::min(s.rows, band + BAND);
        for (int64_t r = band - reach; r < last + reach; ++r) panel.fill(x + offset, r - band + reach, r, count, true);
        for (int64_t y = band; y < last; ++y) {
            const T* from = gradient + offset + y * s.columns * s.channels;
            for (int64_t c = 0; c < s.columns; ++c) {
                load(from + c * s.channels, count, reinterpret_cast<float*>(&line[c]));
                sums[K * K] += line[c];
            }
            for (int i = 0; i < K; ++i)
                correlate_row<K>(panel.row(y - band + i * s.dilation), line, s.dilation, s.columns, sums + i * K);
        }
    }
    for (int t = 0; t <= K * K; ++t) store(sums[t], count, out + (b * (K * K + 1) + t) * s.channels + first);
}

#define EACH_TASK(call)                                                                          \
    const int64_t tasks = s.batch * ((s.channels + LANES - 1) / LANES);                          \
    _Pragma("omp parallel for schedule(dynamic) num_threads(threads)") for (int64_t task = 0; task < tasks; ++task) call

#define KERNELS(K, T, suffix)                                                                                             \
    void forward_task_##suffix(const Shape& s, const T* x, const float* w, const float* b, T* o, int64_t t) { \
        forward_panel<K, T>(s, x, w, b, o, t);                                                                            \
    }                                                                                                                     \
    void input_gradient_task_##suffix(const Shape& s, const T* g, const float* w, T* o, int64_t t) {         \
        input_gradient_panel<K, T>(s, g, w, o, t);                                                                        \
    }                                                                                                                     \
    void filter_gradient_task_##suffix(const Shape& s, const T* x, const T* g, float* o, int64_t t) {        \
        filter_gradient_panel<K, T>(s, x, g, o, t);                                                                       \
    }

KERNELS(5, float, 5f)
KERNELS(7, float, 7f)
KERNELS(5, uint16_t, 5h)
KERNELS(7, uint16_t, 7h)

}  // namespace

#define BY_KERNEL(name, type, ...)                                                          \
    switch (s.kernel) {                                                                     \
        case 5: { EACH_TASK(name##_task_5##type(__VA_ARGS__)); } return 0;                  \
        case 7: { EACH_TASK(name##_task_7##type(__VA_ARGS__)); } return 0;                  \
        default: return 1;                                                                  \
    }

// Compiled once for each set of instructions; the door chooses.
#define JOINED(name, variant) spherical_depthwise_##name##_##variant
#define NAMED(name, variant) __attribute__((visibility("default"))) JOINED(name, variant)

extern "C" {

// Each returns 0, or 1 for a filter size that it does not have. `half` says that fields are bfloat16.

int NAMED(forward, SKYSOLVE_NAMESPACE)(
    const Shape* shape, int half, int threads, const void* x, const float* weight, const float* bias, void* out
) {
    const Shape& s = *shape;
    if (half) {
        const auto* from = static_cast<const uint16_t*>(x);
        auto* to = static_cast<uint16_t*>(out);
        BY_KERNEL(forward, h, s, from, weight, bias, to, task)
    }
    const auto* from = static_cast<const float*>(x);
    auto* to = static_cast<float*>(out);
    BY_KERNEL(forward, f, s, from, weight, bias, to, task)
}

int NAMED(input_gradient, SKYSOLVE_NAMESPACE)(
    const Shape* shape, int half, int threads, const void* gradient, const float* weight, void* out
) {
    const Shape& s = *shape;
    if (half) {
        const auto* from = static_cast<const uint16_t*>(gradient);
        auto* to = static_cast<uint16_t*>(out);
        BY_KERNEL(input_gradient, h, s, from, weight, to, task)
    }
    const auto* from = static_cast<const float*>(gradient);
    auto* to = static_cast<float*>(out);
    BY_KERNEL(input_gradient, f, s, from, weight, to, task)
}

// `out`: (batch, k^2 + 1, channels), the sums of each sample: taps in row order, then the bias.
int NAMED(filter_gradient, SKYSOLVE_NAMESPACE)(
    const Shape* shape, int half, int threads, const void* x, const void* gradient, float* out
) {
    const Shape& s = *shape;
    if (half) {
        const auto* from = static_cast<const uint16_t*>(x);
        const auto* along = static_cast<const uint16_t*>(gradient);
        BY_KERNEL(filter_gradient, h, s, from, along, out, task)
    }
    const auto* from = static_cast<const float*>(x);
    const auto* along = static_cast<const float*>(gradient);
    BY_KERNEL(filter_gradient, f, s, from, along, out, task)
}
}
