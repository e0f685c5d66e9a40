// What Python sees. All addresses are calculated here, from shapes that are checked here: nothing
// that a file or a caller says reaches the kernels unchecked.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "plan.hpp"
#include "workers.hpp"

namespace nb = nanobind;
using namespace spikewire;

namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const std::uint16_t, nb::c_contig, nb::device::cpu>;
using OutFloats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using OutWords = nb::ndarray<std::uint16_t, nb::c_contig, nb::device::cpu>;
using Pair = std::pair<int, int>;
using Shape = std::tuple<int, int, int>;

void require(bool right, const char* what) {
    if (!right) throw std::invalid_argument(what);
}

// --- paths ---------------------------------------------------------------------------------------

std::vector<const Kernels*> available() {
    std::vector<const Kernels*> found{&portable};
#if defined(SPIKEWIRE_X86)
    if (__builtin_cpu_supports("avx2")) found.push_back(&avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        found.push_back(&avx512);
#endif
    return found;
}

const Kernels* path = available().back();

std::vector<std::string> paths() {
    std::vector<std::string> names;
    for (const Kernels* each : available()) names.emplace_back(each->name);
    return names;
}

void use(const std::string& name) {
    for (const Kernels* each : available())
        if (each->name == name) {
            path = each;
            return;
        }
    throw std::invalid_argument("this processor has no path of that name");
}

// --- memory --------------------------------------------------------------------------------------

// Memory that stays with the calling thread from one layer to the next, as large as was ever asked.
template <class X> X* scratch(std::size_t count) {
    static thread_local std::vector<X> held;
    if (held.size() < count) held.resize(count);
    return held.data();
}

std::size_t spikes_in(const Map& map) {
    return std::size_t(map.N) * map.C * map.H * map.T * map.words();
}
std::size_t numbers_in(const Map& map) { return spikes_in(map) * LANES; }

// --- neurons -------------------------------------------------------------------------------------

class Neurons {
  public:
    Neurons(int charge, float constant, float threshold, std::optional<float> reset,
            std::optional<Floats> beta, float recovery, float rise)
        : beta_(beta ? std::vector<float>(beta->data(), beta->data() + beta->size())
                     : std::vector<float>()) {
        require(charge >= INTEGRATE && charge <= LEAK, "no such charge");
        neuron_ = {Charge(charge),   constant, threshold, reset.value_or(0.0f), !reset,
                   beta ? beta_.data() : nullptr, recovery, rise};
    }
    const Neuron& of(int channels) const {
        require(beta_.empty() || int(beta_.size()) == channels, "beta does not fit the channels");
        return neuron_;
    }
    bool varies() const { return !beta_.empty(); }

  private:
    std::vector<float> beta_;
    Neuron neuron_;
};

// Where the weights of each row that are not 0 begin, and where the last end.
std::vector<std::int64_t> row_starts(const float* weights, int rows, std::size_t row, int threads) {
    std::vector<std::int64_t> starts(std::size_t(rows) + 1, 0);
    Workers::share(threads, rows, [&](int o, int) {
        std::int64_t count = 0;
        for (std::size_t i = 0; i < row; ++i) count += weights[o * row + i] != 0;
        starts[std::size_t(o) + 1] = count;
    });
    for (int o = 0; o < rows; ++o) starts[std::size_t(o) + 1] += starts[std::size_t(o)];
    return starts;
}

// --- convolutions --------------------------------------------------------------------------------

int places(int size, int kernel, int stride, int pad, int dilation) {
    return (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
}

int power_of_two(int least) {
    int size = 1;
    while (size < least) size *= 2;
    return size;
}

class Layer {
  public:
    Layer(Floats weight, Floats bias, Shape in, int T, Pair stride, Pair padding, Pair dilation,
          int groups, int threads) {
        require(weight.ndim() == 4 && bias.ndim() == 1, "weight or bias has other dimensions");
        const auto [C, H, W] = in;
        Plan& p = plan_;
        const auto out = int(weight.shape(0));
        p.kernel_h = int(weight.shape(2)), p.kernel_w = int(weight.shape(3));
        std::tie(p.stride_h, p.stride_w) = stride;
        std::tie(p.pad_h, p.pad_w) = padding;
        std::tie(p.dilation_h, p.dilation_w) = dilation;
        require(std::min({C, H, W, T, out, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w,
                          p.dilation_h, p.dilation_w, groups, threads}) >= 1 && p.pad_h >= 0 && p.pad_w >= 0,
                "a size is below 1");
        require(int(bias.shape(0)) == out && out % groups == 0 &&
                int(weight.shape(1)) * groups == C, "weight, bias, channels, groups do not fit");
        p.in = {1, C, H, W, T};
        p.out = {1, out, places(H, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h),
                 places(W, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w), T};
        require(p.out.H >= 1 && p.out.W >= 1, "the input is smaller than the kernel");
        lay_out();
        connect(weight, groups, threads);
        bias_.assign(bias.data(), bias.data() + out);
        for (float& b : bias_) b += 0.0f;  // no sum begins at -0
    }

    Shape shape() const { return {plan_.out.C, plan_.out.H, plan_.out.W}; }
    std::size_t synapses() const { return synapses_.size(); }
    // Vectors that a sample asks to be added.
    double additions() const {
        return double(synapses_.size()) * plan_.words() * plan_.chunks * blocks();
    }

    // T time steps of output: those of the input, or any number of spikes if the input has one.
    void spikes(Words x, std::optional<OutWords> spikes, std::optional<OutFloats> numbers,
                std::optional<OutFloats> potentials, const Neurons* neurons, int N, int T,
                int threads) {
        run(x.data(), x.size(), spikes, numbers, potentials, neurons, N, T, threads);
    }
    void numbers(Floats x, std::optional<OutWords> spikes, std::optional<OutFloats> numbers,
                 std::optional<OutFloats> potentials, const Neurons* neurons, int N, int T,
                 int threads) {
        run(x.data(), x.size(), spikes, numbers, potentials, neurons, N, T, threads);
    }

  private:
    void lay_out() {
        Plan& p = plan_;
        p.across = std::min(LANES, power_of_two(p.out.W));
        p.rows = LANES / p.across;
        if (p.out.H < p.rows) p.rows = power_of_two(p.out.H);
        const int words = p.out.words();
        p.chunks = (p.in.T + LANES - 1) / LANES;
        p.steps = (p.in.T + p.chunks - 1) / p.chunks;
        p.vectors = std::min(words, std::max(1, MOST_WORDS / p.steps));
        p.parts = (words + p.vectors - 1) / p.vectors;
        p.merged = 1;
        if (p.rows == 1 && p.stride_h == 1 && p.parts == 1 && p.chunks == 1)
            p.merged = std::min(p.out.H, std::max(1, MOST_WORDS / p.entry()));
        while (p.out.H % p.merged) --p.merged;
        const int last = (p.out.H - 1) / (p.rows * p.merged) * p.rows * p.merged;  // top row
        p.packed_rows = std::max((last + p.merged - 1) * p.stride_h +
                                     (p.kernel_h - 1) * p.dilation_h + 1,
                                 p.rows == 1 && p.stride_h == 1 ? p.in.H + 2 * p.pad_h : 1);
    }

    // Rows of blocks, and blocks in each.
    int blocks() const {
        const int high = plan_.rows * plan_.merged;
        return (plan_.out.H + high - 1) / high * plan_.parts;
    }

    void connect(const Floats& weight, int groups, int threads) {
        const Plan& p = plan_;
        require(p.packed() < (std::size_t(1) << 31), "the layer is too large");
        const int out = p.out.C, each = int(weight.shape(1));
        const float* weights = weight.data();
        const std::size_t row = weight.size() / out;
        starts_ = row_starts(weights, out, row, threads);
        synapses_.resize(std::size_t(starts_.back()));
        Workers::share(threads, out, [&](int o, int) {
            const float* w = weights + o * row;
            Synapse* synapse = synapses_.data() + starts_[std::size_t(o)];
            const int from = o / (out / groups) * each;
            for (int c = 0; c < each; ++c)
                for (int i = 0; i < p.kernel_h; ++i)
                    for (int j = 0; j < p.kernel_w; ++j, ++w)
                        if (*w != 0) *synapse++ = {address(from + c, i, j), *w};
        });
    }

    std::int32_t address(int c, int i, int j) const {
        const Plan& p = plan_;
        return std::int32_t(c * p.channel() +
                            (std::size_t(j) * p.packed_rows + std::size_t(i) * p.dilation_h) *
                                p.row());
    }

    template <class X>
    void run(const X* x, std::size_t size, std::optional<OutWords>& spikes,
             std::optional<OutFloats>& numbers, std::optional<OutFloats>& potentials,
             const Neurons* neurons, int N, int T, int threads) {
        constexpr std::size_t width = sizeof(X) == sizeof(float) ? LANES : 1;
        require(N >= 1 && T >= 1 && threads >= 1, "there are no samples, time steps or threads");
        require(T == plan_.in.T || (plan_.in.T == 1 && neurons), "x has other time steps");
        Plan p = plan_;
        p.out.T = T;
        Map in = p.in, out = p.out;
        in.N = out.N = N;
        require(size == spikes_in(in) * width, "x has another size");
        require(bool(spikes) == bool(neurons) && bool(numbers) != bool(neurons),
                "spikes go with neurons, numbers without");
        require(!spikes || spikes->size() == spikes_in(out), "spikes has another size");
        require(!numbers || numbers->size() == numbers_in(out), "numbers has another size");
        const Map last{N, out.C, out.H, out.W, 1};
        require(!potentials || potentials->size() == numbers_in(last), "potentials: wrong size");
        const Neuron* neuron = neurons ? &neurons->of(out.C) : nullptr;
        std::uint16_t* to_spikes = spikes ? spikes->data() : nullptr;
        float* to_numbers = numbers ? numbers->data() : nullptr;
        float* to_potentials = potentials ? potentials->data() : nullptr;
        nb::gil_scoped_release free;
        const X* packed = pack(x, N, threads);
        const std::size_t each = (p.as_it_is() ? size / N : p.packed() * width);
        const Connections layer{synapses_.data(), starts_.data(), bias_.data()};
        // outputs are divided only as far as there would be too few parts for the threads
        const int count = blocks() * N;
        const int cuts = std::clamp(4 * threads / count, 1, std::max(1, out.C / 8));
        const std::size_t steps = numbers_in(out) / N, words = spikes_in(out) / N;
        Workers::share(threads, count * cuts, [&](int part, int) {
            const int cut = part % cuts, block = part / cuts % blocks(), n = part / cuts / blocks();
            const int first = int(std::int64_t(out.C) * cut / cuts);
            const int end = int(std::int64_t(out.C) * (cut + 1) / cuts);
            float* v = to_potentials ? to_potentials + n * (numbers_in(last) / N) : nullptr;
            std::uint16_t* s = to_spikes ? to_spikes + n * words : nullptr;
            float* y = to_numbers ? to_numbers + n * steps : nullptr;
            if constexpr (width == 1)
                path->gather_spikes(p, layer, neuron, block, first, end, packed + n * each, s, y, v);
            else
                path->gather_numbers(p, layer, neuron, block, first, end, packed + n * each, s, y, v);
        });
    }

    const std::uint16_t* pack(const std::uint16_t* x, int N, int threads) const {
        const Plan& p = plan_;
        if (p.as_it_is()) return x;
        const std::size_t channel = spikes_in(p.in) / p.in.C;
        const std::size_t rows = std::size_t(p.in.H) * p.in.T * p.out.words();
        std::uint16_t* packed = scratch<std::uint16_t>(N * p.packed() + threads * rows);
        Workers::share(threads, N * p.in.C, [&](int part, int thread) {
            path->pack_spikes(p, x + part * channel, packed + N * p.packed() + thread * rows,
                              packed + part * p.channel());
        });
        return packed;
    }

    const float* pack(const float* x, int N, int threads) const {
        const Plan& p = plan_;
        if (p.as_it_is()) return x;
        const std::size_t channel = numbers_in(p.in) / p.in.C;
        float* packed = scratch<float>(N * p.packed() * LANES);
        Workers::share(threads, N * p.in.C, [&](int part, int) {
            path->pack_numbers(p, x + part * channel, packed + part * p.channel() * LANES);
        });
        return packed;
    }

    Plan plan_{};
    std::vector<Synapse> synapses_;
    std::vector<std::int64_t> starts_;
    std::vector<float> bias_;
};

// --- linear layers by events ---------------------------------------------------------------------

class EventLayer {
  public:
    EventLayer(Floats weight, Floats bias, int T, int threads) : T_(T) {
        require(weight.ndim() == 4 && weight.shape(2) == 1 && weight.shape(3) == 1 &&
                std::min(T, threads) >= 1 && bias.ndim() == 1 && bias.shape(0) == weight.shape(0), "this is no linear layer");
        out_ = int(weight.shape(0)), in_ = int(weight.shape(1));
        blocks_ = (out_ + COLUMN_BLOCK - 1) / COLUMN_BLOCK;
        bias_.assign(bias.data(), bias.data() + out_);
        for (float& b : bias_) b += 0.0f;
        const auto rows = row_starts(weight.data(), out_, std::size_t(in_), threads);
        starts_.assign(std::size_t(blocks_) * (in_ + 1), 0);
        outputs_.resize(std::size_t(rows.back()));
        weights_.resize(std::size_t(rows.back()));
        Workers::share(threads, blocks_, [&](int block, int) {
            fill(weight.data(), block, rows[std::size_t(block) * COLUMN_BLOCK]);
        });
    }

    std::size_t synapses() const { return weights_.size(); }

    // From spikes (N, C, H, T, words) whose (C, H, W) are the inputs in their order.
    void run(Words x, Shape shape, std::optional<OutWords> spikes, std::optional<OutFloats> numbers,
             std::optional<OutFloats> potentials, const Neurons* neurons, int N, int threads) {
        const auto [C, H, W] = shape;
        const Map in{N, C, H, W, T_}, out{N, 1, 1, out_, T_}, last{N, 1, 1, out_, 1};
        require(N >= 1 && threads >= 1 && std::min({C, H, W}) >= 1, "a size is below 1");
        require(std::int64_t(C) * H * W == in_ && x.size() == spikes_in(in), "x: wrong size");
        require(bool(spikes) == bool(neurons) && bool(numbers) != bool(neurons),
                "spikes go with neurons, numbers without");
        require(!neurons || !neurons->varies(), "thresholds that adapt are not for events");
        require(!spikes || spikes->size() == spikes_in(out), "spikes has another size");
        require(!numbers || numbers->size() == numbers_in(out), "numbers has another size");
        require(!potentials || potentials->size() == numbers_in(last), "potentials: wrong size");
        const Neuron* neuron = neurons ? &neurons->of(out_) : nullptr;
        const std::uint16_t* words = x.data();
        std::uint16_t* s = spikes ? spikes->data() : nullptr;
        float* y = numbers ? numbers->data() : nullptr;
        float* v = potentials ? potentials->data() : nullptr;
        nb::gil_scoped_release free;
        const std::size_t each = std::size_t(chunks()) * in_;
        std::uint16_t* times = scratch<std::uint16_t>(N * each);
        std::memset(times, 0, N * each * sizeof *times);
        Workers::share(threads, N * C * H,
                       [&](int row, int) { turn(in, words, row, times); });
        const Columns layer{starts_.data(), outputs_.data(), weights_.data(), bias_.data(),
                            in_, out_, blocks_};
        Workers::share(threads, N * blocks_, [&](int part, int) {
            const int n = part / blocks_, block = part % blocks_;
            path->scatter(layer, neuron, T_, block, times + n * each,
                          s ? s + n * (spikes_in(out) / N) : nullptr,
                          y ? y + n * (numbers_in(out) / N) : nullptr,
                          v ? v + n * (numbers_in(last) / N) : nullptr);
        });
    }

  private:
    int chunks() const { return (T_ + LANES - 1) / LANES; }

    // The columns of a block of outputs; `filled` synapses are those of the blocks before.
    void fill(const float* w, int block, std::int64_t filled) {
        const int from = block * COLUMN_BLOCK, count = std::min(COLUMN_BLOCK, out_ - from);
        std::int64_t* starts = starts_.data() + std::size_t(block) * (in_ + 1);
        std::vector<std::int64_t> next(std::size_t(in_), 0);
        for (int o = 0; o < count; ++o) {
            const float* row = w + std::size_t(from + o) * in_;
            for (int j = 0; j < in_; ++j) next[std::size_t(j)] += row[j] != 0;
        }
        for (int j = 0; j < in_; ++j) {
            starts[j] = filled;
            filled += next[std::size_t(j)];
            next[std::size_t(j)] = starts[j];
        }
        starts[in_] = filled;
        for (int o = 0; o < count; ++o) {
            const float* row = w + std::size_t(from + o) * in_;
            for (int j = 0; j < in_; ++j) {
                if (row[j] == 0) continue;
                const auto at = std::size_t(next[std::size_t(j)]++);
                outputs_[at] = std::uint16_t(o);
                weights_[at] = row[j];
            }
        }
    }

    // One row of a map to the times at which its columns fire.
    void turn(const Map& in, const std::uint16_t* words, int row, std::uint16_t* times) const {
        const int rows = in.C * in.H, wide = in.words();
        const std::uint16_t* from = words + std::size_t(row) * in.T * wide;
        std::uint16_t* to = times + std::size_t(row / rows) * chunks() * in_ +
                            std::size_t(row % rows) * in.W;
        for (int t = 0; t < in.T; ++t)
            for (int w = 0; w < wide; ++w)
                for (unsigned left = from[t * wide + w]; left; left &= left - 1)
                    to[std::size_t(t / LANES) * in_ + w * LANES + __builtin_ctz(left)] |=
                        std::uint16_t(1u << t % LANES);
    }

    int T_, in_ = 0, out_ = 0, blocks_ = 0;
    std::vector<std::int64_t> starts_;
    std::vector<std::uint16_t> outputs_;
    std::vector<float> weights_, bias_;
};

// --- maps ----------------------------------------------------------------------------------------

// Neurons on numbers: x has `steps` = 1 (the same at each time step) or T; its rows lie
// `strides` (of sample, channel, row, time step) floats apart and have `readable` of them.
void fire(Floats x, std::tuple<std::size_t, std::size_t, std::size_t, std::size_t> strides,
          int readable, std::tuple<int, int, int, int, int> shape, const Neurons& neurons,
          OutWords spikes,
          std::optional<OutFloats> potentials, int threads) {
    const auto [N, C, H, W, T] = shape;
    const auto [of_sample, of_channel, of_row, of_step] = strides;
    require(std::min({N, C, H, W, T, threads}) >= 1, "a size is below 1");
    require(readable >= W, "rows are too short");
    const std::size_t end = (N - 1) * of_sample + (C - 1) * of_channel + (H - 1) * of_row +
                            (T - 1) * of_step + std::size_t(readable);
    require(end <= x.size(), "x is smaller than its strides say");
    const Map map{N, C, H, W, T}, last{N, C, H, W, 1};
    require(spikes.size() == spikes_in(map), "spikes has another size");
    require(!potentials || potentials->size() == numbers_in(last), "potentials: wrong size");
    const Neuron& neuron = neurons.of(C);
    const float* from = x.data();
    std::uint16_t* to = spikes.data();
    float* v = potentials ? potentials->data() : nullptr;
    nb::gil_scoped_release free;
    const std::size_t words = std::size_t(H) * map.words();
    Workers::share(threads, N * C, [&](int part, int) {
        const Currents currents{from + part / C * of_sample + part % C * of_channel,
                                std::ptrdiff_t(of_row), std::ptrdiff_t(of_step), readable};
        path->fire(neuron, map, currents, part % C, to + part * words * T,
                   v ? v + part * words * LANES : nullptr);
    });
}

bool set(const std::uint16_t* row, int x) { return row[x / LANES] >> x % LANES & 1; }

// Spikes to 0 and 1: (N, C, H, T, W) to rows `strides` floats apart.
void unpack(Words x, std::tuple<int, int, int, int, int> shape, OutFloats out,
            std::tuple<std::size_t, std::size_t, std::size_t, std::size_t> strides, int threads) {
    const auto [N, C, H, W, T] = shape;
    const auto [of_sample, of_channel, of_row, of_step] = strides;
    const Map map{N, C, H, W, T};
    require(std::min({N, C, H, W, T, threads}) >= 1 && x.size() == spikes_in(map), "wrong size");
    require((N - 1) * of_sample + (C - 1) * of_channel + (H - 1) * of_row + (T - 1) * of_step +
                    std::size_t(W) <= out.size(), "out is smaller than its strides say");
    const std::uint16_t* from = x.data();
    float* to = out.data();
    nb::gil_scoped_release free;
    Workers::share(threads, N * C, [&](int part, int) {
        const std::uint16_t* row = from + std::size_t(part) * H * T * map.words();
        for (int y = 0; y < H; ++y)
            for (int t = 0; t < T; ++t, row += map.words()) {
                float* line = to + part / C * of_sample + part % C * of_channel + y * of_row +
                              t * of_step;
                for (int i = 0; i < W; ++i) line[i] = set(row, i) ? 1.0f : 0.0f;
            }
    });
}

// Spikes of flat features, with a lane for each sample: (N, C, H, T, words of W) to
// (groups, C H W, 1, T, words of `lanes`).
void flatten(Words x, std::tuple<int, int, int, int, int> shape, int lanes, OutWords out,
             int threads) {
    const auto [N, C, H, W, T] = shape;
    const Map map{N, C, H, W, T};
    require(std::min({N, C, H, W, T, threads, lanes}) >= 1 && lanes % LANES == 0 &&
            x.size() == spikes_in(map), "wrong size");
    const int groups = (N + lanes - 1) / lanes, wide = lanes / LANES, features = C * H * W;
    const std::size_t each = std::size_t(features) * T * wide;
    require(out.size() == groups * each, "out has another size");
    const std::uint16_t* from = x.data();
    std::uint16_t* to = out.data();
    nb::gil_scoped_release free;
    Workers::share(threads, groups * C, [&](int part, int) {
        const int group = part / C, c = part % C;
        std::uint16_t* channel = to + group * each + std::size_t(c) * H * W * T * wide;
        std::memset(channel, 0, std::size_t(H) * W * T * wide * sizeof *channel);
        for (int n = group * lanes; n < std::min(N, (group + 1) * lanes); ++n) {
            const std::uint16_t* row = from + (std::size_t(n) * C + c) * H * T * map.words();
            const int word = n % lanes / LANES;
            const auto bit = std::uint16_t(1u << n % LANES);
            for (int y = 0; y < H; ++y)
                for (int t = 0; t < T; ++t)
                    for (int k = 0; k < map.words(); ++k, ++row)
                        for (unsigned left = *row; left; left &= left - 1) {
                            const int at = y * W + k * LANES + __builtin_ctz(left);
                            channel[(std::size_t(at) * T + t) * wide + word] |= bit;
                        }
        }
    });
}

Map pooled(const Map& in, const Window& w) {
    return {in.N, in.C, places(in.H, w.kernel_h, w.stride_h, w.pad_h, 1),
            places(in.W, w.kernel_w, w.stride_w, w.pad_w, 1), in.T};
}

// Every other bit of a word.
std::uint16_t halved(std::uint32_t x) {
    x &= 0x55555555u;
    x = (x | x >> 1) & 0x33333333u;
    x = (x | x >> 2) & 0x0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ffu;
    return std::uint16_t(x | x >> 8);
}

// Windows of 2 x 2 side by side, of one channel: (H, T, words) to (H / 2, T, words).
void pool_pairs(const Map& map, const Map& to, const std::uint16_t* channel, std::uint16_t* out) {
    const int wide = map.words(), row = map.T * wide;
    const std::uint16_t last = std::uint16_t(to.W % LANES ? (1u << to.W % LANES) - 1 : 0xffff);
    for (int y = 0; y < to.H; ++y, channel += 2 * row)
        for (int t = 0; t < map.T; ++t, out += to.words())
            for (int k = 0; k < to.words(); ++k) {
                const std::uint16_t* at = channel + t * wide + 2 * k;
                std::uint32_t any = std::uint32_t(at[0] | at[row]);
                if (2 * k + 1 < wide) any |= std::uint32_t(at[1] | at[row + 1]) << LANES;
                out[k] = halved(any | any >> 1) & (k + 1 < to.words() ? 0xffff : last);
            }
}

// Whether a spike is in the window: the largest of zeros and ones.
void pool_max(Words x, std::tuple<int, int, int, int, int> shape, Pair kernel, Pair stride,
              Pair padding, OutWords out, int threads) {
    const auto [N, C, H, W, T] = shape;
    const Map map{N, C, H, W, T};
    const Window w{kernel.first, kernel.second, stride.first,
                   stride.second, padding.first, padding.second};
    require(std::min({N, C, H, W, T, threads, w.kernel_h, w.kernel_w, w.stride_h, w.stride_w}) >= 1,
            "a size is below 1");
    const Map to = pooled(map, w);
    require(to.H >= 1 && to.W >= 1, "the map is smaller than the window");
    require(x.size() == spikes_in(map) && out.size() == spikes_in(to), "wrong size");
    const std::uint16_t* from = x.data();
    std::uint16_t* result = out.data();
    nb::gil_scoped_release free;
    const bool pairs = kernel == Pair(2, 2) && stride == kernel && padding == Pair(0, 0);
    Workers::share(threads, N * C, [&](int part, int) {
        const int wide = map.words();
        const std::uint16_t* channel = from + std::size_t(part) * H * T * wide;
        std::uint16_t* row = result + std::size_t(part) * to.H * T * to.words();
        if (pairs) return pool_pairs(map, to, channel, row);
        std::vector<std::uint16_t> any(std::size_t(wide), 0);
        for (int y = 0; y < to.H; ++y)
            for (int t = 0; t < T; ++t, row += to.words()) {
                std::fill(any.begin(), any.end(), 0);
                for (int i = 0; i < w.kernel_h; ++i) {
                    const int at = y * w.stride_h - w.pad_h + i;
                    for (int k = 0; k < wide && at >= 0 && at < H; ++k)
                        any[std::size_t(k)] |= channel[(std::size_t(at) * T + t) * wide + k];
                }
                for (int k = 0; k < to.words(); ++k) {
                    unsigned word = 0;
                    for (int lane = 0; lane < LANES && k * LANES + lane < to.W; ++lane)
                        for (int j = 0; j < w.kernel_w; ++j) {
                            const int at = (k * LANES + lane) * w.stride_w - w.pad_w + j;
                            if (at >= 0 && at < W) word |= unsigned(set(any.data(), at)) << lane;
                        }
                    row[k] = std::uint16_t(word);
                }
            }
    });
}

// Spikes in each window, divided by its size.
void pool_average(Words x, std::tuple<int, int, int, int, int> shape, Pair kernel, Pair stride,
                  OutFloats out, int threads) {
    const auto [N, C, H, W, T] = shape;
    const Map map{N, C, H, W, T};
    const Window w{kernel.first, kernel.second, stride.first, stride.second, 0, 0};
    require(std::min({N, C, H, W, T, threads, w.kernel_h, w.kernel_w, w.stride_h, w.stride_w}) >= 1,
            "a size is below 1");
    const Map to = pooled(map, w);
    require(to.H >= 1 && to.W >= 1, "the map is smaller than the window");
    require(x.size() == spikes_in(map) && out.size() == numbers_in(to), "wrong size");
    const std::uint16_t* from = x.data();
    float* result = out.data();
    nb::gil_scoped_release free;
    Workers::share(threads, N * C, [&](int part, int) {
        const int wide = map.words(), line = to.words() * LANES;
        const std::uint16_t* channel = from + std::size_t(part) * H * T * wide;
        float* row = result + std::size_t(part) * to.H * T * line;
        for (int y = 0; y < to.H; ++y)
            for (int t = 0; t < T; ++t, row += line)
                for (int k = 0; k < line; ++k) {
                    int count = 0;
                    for (int i = 0; i < w.kernel_h && k < to.W; ++i)
                        for (int j = 0; j < w.kernel_w; ++j)
                            count += set(channel + (std::size_t(y * w.stride_h + i) * T + t) * wide,
                                         k * w.stride_w + j);
                    row[k] = float(count) / float(w.kernel_h * w.kernel_w);
                }
    });
}

}  // namespace

NB_MODULE(_kernels, m) {
    m.def("paths", &paths);
    m.def("path", [] { return std::string(path->name); });
    m.def("use", &use, nb::arg("name"));
    nb::class_<Neurons>(m, "Neurons")
        .def(nb::init<int, float, float, std::optional<float>, std::optional<Floats>, float,
                      float>(),
             nb::arg("charge"), nb::arg("constant"), nb::arg("threshold"),
             nb::arg("reset").none(), nb::arg("beta").none(), nb::arg("recovery"), nb::arg("rise"));
    nb::class_<Layer>(m, "Layer")
        .def(nb::init<Floats, Floats, Shape, int, Pair, Pair, Pair, int, int>(),
             nb::arg("weight"), nb::arg("bias"), nb::arg("shape"), nb::arg("T"),
             nb::arg("stride"), nb::arg("padding"), nb::arg("dilation"), nb::arg("groups"),
             nb::arg("threads"))
        .def_prop_ro("shape", &Layer::shape)
        .def_prop_ro("synapses", &Layer::synapses)
        .def_prop_ro("additions", &Layer::additions)
        .def("spikes", &Layer::spikes, nb::arg("x"), nb::arg("spikes").none(),
             nb::arg("numbers").none(), nb::arg("potentials").none(), nb::arg("neurons").none(),
             nb::arg("N"), nb::arg("T"), nb::arg("threads"))
        .def("numbers", &Layer::numbers, nb::arg("x"), nb::arg("spikes").none(),
             nb::arg("numbers").none(), nb::arg("potentials").none(), nb::arg("neurons").none(),
             nb::arg("N"), nb::arg("T"), nb::arg("threads"));
    nb::class_<EventLayer>(m, "EventLayer")
        .def(nb::init<Floats, Floats, int, int>(), nb::arg("weight"), nb::arg("bias"),
             nb::arg("T"), nb::arg("threads"))
        .def_prop_ro("synapses", &EventLayer::synapses)
        .def("spikes", &EventLayer::run, nb::arg("x"), nb::arg("shape"), nb::arg("spikes").none(),
             nb::arg("numbers").none(), nb::arg("potentials").none(), nb::arg("neurons").none(),
             nb::arg("N"), nb::arg("threads"));
    m.def("fire", &fire, nb::arg("x"), nb::arg("strides"), nb::arg("readable"), nb::arg("shape"),
          nb::arg("neurons"), nb::arg("spikes"), nb::arg("potentials").none(), nb::arg("threads"));
    m.def("unpack", &unpack, nb::arg("x"), nb::arg("shape"), nb::arg("out"), nb::arg("strides"),
          nb::arg("threads"));
    m.def("flatten", &flatten, nb::arg("x"), nb::arg("shape"), nb::arg("lanes"), nb::arg("out"),
          nb::arg("threads"));
    m.def("pool_max", &pool_max, nb::arg("x"), nb::arg("shape"), nb::arg("kernel"),
          nb::arg("stride"), nb::arg("padding"), nb::arg("out"), nb::arg("threads"));
    m.def("pool_average", &pool_average, nb::arg("x"), nb::arg("shape"), nb::arg("kernel"),
          nb::arg("stride"), nb::arg("out"), nb::arg("threads"));
}
