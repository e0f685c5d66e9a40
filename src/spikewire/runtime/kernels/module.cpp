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
#include <cmath>
#include <cstring>
#include <initializer_list>
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
using Places = nb::ndarray<const std::int32_t, nb::c_contig, nb::device::cpu>;
using Starts = nb::ndarray<const std::int64_t, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const std::uint16_t, nb::c_contig, nb::device::cpu>;
using OutFloats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using OutWords = nb::ndarray<std::uint16_t, nb::c_contig, nb::device::cpu>;
using Pair = std::pair<int, int>;
using Kernel = std::tuple<int, int, int, int>;      // out, in / groups, height, width
using Shape = std::tuple<int, int, int>;           // C, H, W
using Sizes = std::tuple<int, int, int, int, int>;  // N, C, H, W, T
using Strides = std::tuple<std::size_t, std::size_t, std::size_t, std::size_t>;

void require(bool right, const char* what) {
    if (!right) throw std::invalid_argument(what);
}

// --- sizes, all of them far from where a product would not fit -----------------------------------

constexpr int LARGEST = 1 << 28;              // of a size
constexpr double MOST_NUMBERS = 1LL << 40;    // in a map
constexpr double MOST_PARTS = 1 << 30;        // of a piece of work

bool are_sizes(std::initializer_list<int> sizes) {
    return std::all_of(sizes.begin(), sizes.end(),
                       [](int size) { return size >= 1 && size <= LARGEST; });
}

// Its parts may be counted in an int, its numbers in a size_t.
const Map& checked(const Map& map) {
    require(are_sizes({map.N, map.C, map.H, map.W, map.T}), "a size is below 1 or too large");
    const double rows = double(map.N) * map.C * map.H;
    require(rows <= MOST_PARTS && rows * map.T * map.words() * LANES <= MOST_NUMBERS &&
                double(map.C) * map.H * map.W <= MOST_PARTS, "a map is too large");
    return map;
}

Map map_of(const Sizes& sizes) {
    const auto [N, C, H, W, T] = sizes;
    return checked({N, C, H, W, T});
}

int sharing(int threads) {
    require(threads >= 1, "there are no threads");
    return std::min(threads, Workers::MOST_THREADS);
}

std::size_t spikes_in(const Map& map) {
    return std::size_t(map.N) * map.C * map.H * map.T * map.words();
}
std::size_t numbers_in(const Map& map) { return spikes_in(map) * LANES; }

int slid(int size, int kernel, int stride, int pad, int dilation) {
    const std::int64_t last =
        size + 2 * std::int64_t(pad) - std::int64_t(dilation) * (kernel - 1) - 1;
    return last < 0 ? 0 : int(std::min<std::int64_t>(last / stride + 1, LARGEST));
}

// Whether rows (N, C, H, T) of so many numbers, so far apart, lie within an array.
bool lie_within(const Map& map, const Strides& strides, int row, std::size_t size) {
    const auto [of_sample, of_channel, of_row, of_step] = strides;
    const double end = double(map.N - 1) * double(of_sample) +
                       double(map.C - 1) * double(of_channel) +
                       double(map.H - 1) * double(of_row) + double(map.T - 1) * double(of_step);
    return end + row <= MOST_NUMBERS && end + row <= double(size);
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

const Kernels* path = available().back();  // changed and read under the GIL

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

// Memory that stays with the calling thread from one layer to the next, as large as was ever asked.
template <class X> X* scratch(std::size_t count) {
    static thread_local std::vector<X> held;
    if (held.size() < count) {
        held.clear();  // nothing of it is copied
        held.resize(count);
    }
    return held.data();
}

// --- neurons -------------------------------------------------------------------------------------

class Neurons {
  public:
    Neurons(int charge, float constant, float threshold, std::optional<float> reset,
            std::optional<Floats> beta, float recovery, float rise) {
        require(charge >= INTEGRATE && charge <= LEAK, "no such charge");
        if (beta) beta_.assign(beta->data(), beta->data() + beta->size());
        require(!beta || !beta_.empty(), "beta is empty");
        neuron_ = {Charge(charge), constant, threshold, reset.value_or(0.0f), !reset,
                   beta ? beta_.data() : nullptr, recovery, rise};
    }
    Neurons(const Neurons&) = delete;  // the kernels' part points into this one
    Neurons& operator=(const Neurons&) = delete;

    const Neuron& of(int channels) const {
        require(beta_.empty() || int(beta_.size()) == channels, "beta does not fit the channels");
        return neuron_;
    }
    bool varies() const { return !beta_.empty(); }

  private:
    std::vector<float> beta_;
    Neuron neuron_{};
};

// What a layer writes to: spikes and perhaps potentials if it has neurons, else numbers.
struct Outputs {
    std::uint16_t* spikes;
    float *numbers, *potentials;
    const Neuron* neuron;
    std::size_t words, numbers_each, potentials_each;  // of a sample

    Outputs(const Map& out, std::optional<OutWords>& s, std::optional<OutFloats>& y,
            std::optional<OutFloats>& v, const Neurons* neurons, int channels) {
        const Map last{out.N, out.C, out.H, out.W, 1};
        require(bool(s) == bool(neurons) && bool(y) != bool(neurons) && (neurons || !v),
                "spikes and potentials go with neurons, numbers without");
        require(!s || s->size() == spikes_in(out), "spikes has another size");
        require(!y || y->size() == numbers_in(out), "numbers has another size");
        require(!v || v->size() == numbers_in(last), "potentials has another size");
        spikes = s ? s->data() : nullptr;
        numbers = y ? y->data() : nullptr;
        potentials = v ? v->data() : nullptr;
        neuron = neurons ? &neurons->of(channels) : nullptr;
        words = spikes_in(out) / out.N;
        numbers_each = numbers_in(out) / out.N;
        potentials_each = numbers_in(last) / out.N;
    }

    std::uint16_t* spikes_of(int n) const { return spikes ? spikes + n * words : nullptr; }
    float* numbers_of(int n) const { return numbers ? numbers + n * numbers_each : nullptr; }
    float* potentials_of(int n) const {
        return potentials ? potentials + n * potentials_each : nullptr;
    }
};

// --- weights -------------------------------------------------------------------------------------

// The synapses of each output that are left, in the order in which they are added up.
struct Weight {
    int out, each, height, width;
    const std::int64_t* starts;   // (out + 1,)
    const std::int32_t* places;   // in (each, height, width), ascending
    const float* values;

    Weight(const Kernel& shape, const Starts& s, const Places& p, const Floats& v)
        : starts(s.data()), places(p.data()), values(v.data()) {
        std::tie(out, each, height, width) = shape;
        require(are_sizes({out, each, height, width}) &&
                    double(each) * height * width <= LARGEST, "weight is too large");
        require(p.size() == v.size() && s.size() == std::size_t(out) + 1 && starts[0] == 0 &&
                    std::is_sorted(starts, starts + out + 1) &&
                    starts[out] == std::int64_t(v.size()),
                "the starts of a weight do not fit its synapses");
    }

    std::size_t synapses() const { return std::size_t(starts[out]); }

    // To each synapse of an output its place is shown, and its value.
    template <class F> void each_of(int o, F&& show) const {
        std::int32_t last = -1;
        for (std::int64_t s = starts[o]; s < starts[o + 1]; ++s) {
            require(places[s] > last && places[s] < each * height * width,
                    "a weight has a synapse out of place");
            last = places[s];
            show(last, values[s]);
        }
    }
};

// No sum begins at -0; shared with nobody, but among workers denormal numbers are numbers.
std::vector<float> without_signed_zeros(const Floats& bias) {
    std::vector<float> found(bias.data(), bias.data() + bias.size());
    Workers::share(1, 1, [&](int, int) {
        for (float& b : found) b += 0.0f;
    });
    return found;
}

// --- convolutions --------------------------------------------------------------------------------

int power_of_two(int least) {
    int size = 1;
    while (size < least) size *= 2;
    return size;
}

class Layer {
  public:
    Layer(Kernel kernel, Starts starts, Places places, Floats values, Floats bias, Shape in, int T,
          Pair stride, Pair padding, Pair dilation, int groups, int threads) {
        const Weight weight(kernel, starts, places, values);
        const auto [C, H, W] = in;
        Plan& p = plan_;
        const int out = weight.out;
        p.kernel_h = weight.height, p.kernel_w = weight.width;
        std::tie(p.stride_h, p.stride_w) = stride;
        std::tie(p.pad_h, p.pad_w) = padding;
        std::tie(p.dilation_h, p.dilation_w) = dilation;
        require(are_sizes({p.stride_h, p.stride_w, p.dilation_h, p.dilation_w, groups, p.pad_h + 1,
                           p.pad_w + 1}),
                "a size is below 1 or too large");
        require(bias.ndim() == 1 && bias.size() == std::size_t(out) && out % groups == 0 &&
                    std::int64_t(weight.each) * groups == C,
                "weight, bias, channels, groups do not fit");
        p.in = checked({1, C, H, W, T});
        p.out = {1, out, slid(H, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h),
                 slid(W, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w), T};
        require(p.out.H >= 1 && p.out.W >= 1, "the input is smaller than the kernel");
        checked(p.out);
        threads = sharing(threads);
        nb::gil_scoped_release free;
        lay_out();
        connect(weight, groups, threads);
        bias_ = without_signed_zeros(bias);
    }

    Shape shape() const { return {plan_.out.C, plan_.out.H, plan_.out.W}; }
    std::size_t synapses() const { return std::size_t(starts_.back()); }
    // Vectors that a sample asks to be added.
    double additions() const {
        return double(synapses()) * plan_.words() * plan_.chunks * blocks();
    }

    // T time steps of output: those of the input, or any number of spikes if the input has one.
    template <class Array>
    void run(Array x, std::optional<OutWords> spikes, std::optional<OutFloats> numbers,
             std::optional<OutFloats> potentials, const Neurons* neurons, int N, int T,
             int threads) {
        constexpr std::size_t width = std::is_same_v<Array, Floats> ? LANES : 1;
        require(T == plan_.in.T || (plan_.in.T == 1 && neurons), "x has other time steps");
        Plan p = plan_;
        p.out.T = T;
        Map in = p.in, out = p.out;
        in.N = out.N = N;
        require(x.size() == spikes_in(checked(in)) * width, "x has another size");
        const Outputs to(checked(out), spikes, numbers, potentials, neurons, out.C);
        require(double(blocks()) * N * out.C <= MOST_PARTS, "there are too many samples");
        threads = sharing(threads);
        const Kernels* now = path;
        const auto* data = x.data();
        nb::gil_scoped_release free;
        const auto* packed = pack(*now, data, N, threads);
        const std::size_t each = p.as_it_is() ? spikes_in(p.in) * width : p.packed() * width;
        const Connections layer{synapses_.data(), starts_.data(), bias_.data()};
        // outputs are divided only as far as there would be too few parts for the threads
        const int count = blocks() * N;
        const int cuts = std::clamp(4 * threads / count, 1, std::max(1, out.C / 8));
        Workers::share(threads, count * cuts, [&](int part, int) {
            const int cut = part % cuts, block = part / cuts % blocks(), n = part / cuts / blocks();
            const int first = int(std::int64_t(out.C) * cut / cuts);
            const int end = int(std::int64_t(out.C) * (cut + 1) / cuts);
            const auto gather = [&](auto kernel) {
                kernel(p, layer, to.neuron, block, first, end, packed + n * each, to.spikes_of(n),
                       to.numbers_of(n), to.potentials_of(n));
            };
            if constexpr (width == 1)
                gather(now->gather_spikes);
            else
                gather(now->gather_numbers);
        });
    }

  private:
    void lay_out() {
        Plan& p = plan_;
        p.across = std::min(LANES, power_of_two(p.out.W));
        p.rows = std::min(LANES / p.across, power_of_two(p.out.H));
        const int words = p.out.words();
        p.chunks = (p.in.T + LANES - 1) / LANES;
        p.steps = (p.in.T + p.chunks - 1) / p.chunks;
        p.vectors = std::min(words, std::max(1, MOST_WORDS / p.steps));
        p.parts = (words + p.vectors - 1) / p.vectors;
        p.merged = 1;
        if (p.rows == 1 && p.stride_h == 1 && p.parts == 1 && p.chunks == 1)
            p.merged = std::min(p.out.H, 2 * MOST_WORDS / p.entry());
        while (p.out.H % p.merged) --p.merged;
        const int high = p.rows * p.merged;
        const double last = (p.out.H - 1) / high * high + p.merged - 1;  // top row of the last
        const double seen = last * p.stride_h + double(p.kernel_h - 1) * p.dilation_h + 1;
        const double whole = p.rows == 1 && p.stride_h == 1 ? p.in.H + 2.0 * p.pad_h : 1.0;
        const double rows = std::max(seen, whole);
        require(rows * double(p.row()) * p.kernel_w * p.in.C < double(1LL << 31),
                "the layer is too large");
        p.packed_rows = int(rows);
    }

    // Rows of blocks, and blocks in each.
    int blocks() const {
        const int high = plan_.rows * plan_.merged;
        return (plan_.out.H + high - 1) / high * plan_.parts;
    }

    void connect(const Weight& weight, int groups, int threads) {
        starts_.assign(weight.starts, weight.starts + weight.out + 1);
        synapses_.resize(weight.synapses() + AHEAD);  // those of the last are looked at in vain
        Workers::share(threads, weight.out, [&](int o, int) {
            Synapse* synapse = synapses_.data() + starts_[std::size_t(o)];
            const int from = o / (weight.out / groups) * weight.each;
            weight.each_of(o, [&](int place, float value) {
                const int j = place % weight.width, row = place / weight.width;
                const int i = row % weight.height, c = from + row / weight.height;
                *synapse++ = {address(c, i, j), value};
            });
        });
    }

    std::int32_t address(int c, int i, int j) const {
        const Plan& p = plan_;
        const std::size_t row = std::size_t(j) * p.packed_rows + std::size_t(i) * p.dilation_h;
        return std::int32_t(c * p.channel() + row * p.row());
    }

    const std::uint16_t* pack(const Kernels& now, const std::uint16_t* x, int N,
                              int threads) const {
        const Plan& p = plan_;
        if (p.as_it_is()) return x;
        const std::size_t channel = spikes_in(p.in) / p.in.C;
        const std::size_t rows = std::size_t(p.in.H) * p.in.T * p.out.words();
        std::uint16_t* packed = scratch<std::uint16_t>(N * p.packed() + threads * rows);
        Workers::share(threads, N * p.in.C, [&](int part, int thread) {
            now.pack_spikes(p, x + part * channel, packed + N * p.packed() + thread * rows,
                            packed + part * p.channel());
        });
        return packed;
    }

    const float* pack(const Kernels& now, const float* x, int N, int threads) const {
        const Plan& p = plan_;
        if (p.as_it_is()) return x;
        const std::size_t channel = numbers_in(p.in) / p.in.C;
        float* packed = scratch<float>(N * p.packed() * LANES);
        Workers::share(threads, N * p.in.C, [&](int part, int) {
            now.pack_numbers(p, x + part * channel, packed + part * p.channel() * LANES);
        });
        return packed;
    }

    Plan plan_{};
    std::vector<Synapse> synapses_;
    std::vector<std::int64_t> starts_;
    std::vector<float> bias_;
};

// The spikes of a word, as far as they are columns of the map.
unsigned columns_of(const Map& map, int word, std::uint16_t spikes) {
    const int left = map.W - word * LANES;
    return left >= LANES ? spikes : spikes & ((1u << left) - 1);
}

// --- linear layers by events ---------------------------------------------------------------------

class EventLayer {
  public:
    EventLayer(Kernel kernel, Starts starts, Places places, Floats values, Floats bias, int T,
               int threads)
        : T_(T) {
        const Weight weight(kernel, starts, places, values);
        out_ = weight.out, in_ = weight.each;
        require(weight.height == 1 && weight.width == 1 && bias.ndim() == 1 &&
                    bias.size() == std::size_t(out_),
                "this is no linear layer");
        checked({1, 1, 1, out_, T});
        checked({1, 1, 1, in_, T});
        blocks_ = (out_ + COLUMN_BLOCK - 1) / COLUMN_BLOCK;
        threads = sharing(threads);
        nb::gil_scoped_release free;
        bias_ = without_signed_zeros(bias);
        starts_.assign(std::size_t(blocks_) * (in_ + 1), 0);
        outputs_.resize(weight.synapses());
        weights_.resize(weight.synapses());
        Workers::share(threads, blocks_, [&](int block, int) { fill(weight, block); });
    }

    std::size_t synapses() const { return weights_.size(); }

    // From spikes (N, C, H, T, words) whose (C, H, W) are the inputs in their order.
    void run(Words x, Shape shape, std::optional<OutWords> spikes, std::optional<OutFloats> numbers,
             std::optional<OutFloats> potentials, const Neurons* neurons, int N, int threads) {
        const auto [C, H, W] = shape;
        const Map in = checked({N, C, H, W, T_}), out = checked({N, 1, 1, out_, T_});
        require(std::int64_t(C) * H * W == in_ && x.size() == spikes_in(in), "x has another size");
        require(!neurons || !neurons->varies(), "thresholds that adapt are not for events");
        const Outputs to(out, spikes, numbers, potentials, neurons, out_);
        require(double(N) * blocks_ <= MOST_PARTS, "there are too many samples");
        threads = sharing(threads);
        const Kernels* now = path;
        const std::uint16_t* words = x.data();
        nb::gil_scoped_release free;
        const std::size_t each = std::size_t(chunks()) * in_;
        std::uint16_t* times = scratch<std::uint16_t>(N * each);
        std::memset(times, 0, N * each * sizeof *times);
        Workers::share(threads, in.N * in.C * in.H,
                       [&](int row, int) { turn(in, words, row, times); });
        const Columns layer{starts_.data(), outputs_.data(), weights_.data(), bias_.data(),
                            in_, out_, blocks_};
        Workers::share(threads, N * blocks_, [&](int part, int) {
            const int n = part / blocks_;
            now->scatter(layer, to.neuron, T_, part % blocks_, times + n * each, to.spikes_of(n),
                         to.numbers_of(n), to.potentials_of(n));
        });
    }

  private:
    int chunks() const { return (T_ + LANES - 1) / LANES; }

    // The columns of a block of outputs.
    void fill(const Weight& weight, int block) {
        const int from = block * COLUMN_BLOCK, end = std::min(from + COLUMN_BLOCK, out_);
        std::int64_t* starts = starts_.data() + std::size_t(block) * (in_ + 1);
        std::vector<std::int64_t> next(std::size_t(in_), 0);
        for (int o = from; o < end; ++o)
            weight.each_of(o, [&](int input, float) { ++next[std::size_t(input)]; });
        std::int64_t filled = weight.starts[from];
        for (int input = 0; input < in_; ++input) {
            starts[input] = filled;
            filled += next[std::size_t(input)];
            next[std::size_t(input)] = starts[input];
        }
        starts[in_] = filled;
        for (int o = from; o < end; ++o)
            weight.each_of(o, [&](int input, float value) {
                const auto at = std::size_t(next[std::size_t(input)]++);
                outputs_[at] = std::uint16_t(o - from);
                weights_[at] = value;
            });
    }

    // One row of a map to the times at which its columns fire.
    void turn(const Map& in, const std::uint16_t* words, int row, std::uint16_t* times) const {
        const int rows = in.C * in.H, wide = in.words();
        const std::uint16_t* from = words + std::size_t(row) * in.T * wide;
        std::uint16_t* to = times + std::size_t(row / rows) * chunks() * in_ +
                            std::size_t(row % rows) * in.W;
        for (int t = 0; t < in.T; ++t)
            for (int w = 0; w < wide; ++w)
                for (unsigned left = columns_of(in, w, from[t * wide + w]); left; left &= left - 1)
                    to[std::size_t(t / LANES) * in_ + w * LANES + __builtin_ctz(left)] |=
                        std::uint16_t(1u << t % LANES);
    }

    int T_, in_ = 0, out_ = 0, blocks_ = 0;
    std::vector<std::int64_t> starts_;
    std::vector<std::uint16_t> outputs_;
    std::vector<float> weights_, bias_;
};

// --- maps ----------------------------------------------------------------------------------------

// Neurons on numbers whose rows lie `strides` (of sample, channel, row, time step) floats apart and
// have `readable` of them.
void fire(Floats x, Strides strides, int readable, Sizes sizes, const Neurons& neurons,
          OutWords spikes, std::optional<OutFloats> potentials, int threads) {
    const Map map = map_of(sizes), last{map.N, map.C, map.H, map.W, 1};
    require(readable >= map.W && readable <= LARGEST, "rows are too short or too long");
    require(lie_within(map, strides, readable, x.size()), "x is smaller than its strides say");
    require(spikes.size() == spikes_in(map), "spikes has another size");
    require(!potentials || potentials->size() == numbers_in(last), "potentials has another size");
    threads = sharing(threads);
    const Neuron& neuron = neurons.of(map.C);
    const std::size_t of_sample = std::get<0>(strides), of_channel = std::get<1>(strides);
    const std::ptrdiff_t of_row(std::get<2>(strides)), of_step(std::get<3>(strides));
    const Kernels* now = path;
    const float* from = x.data();
    std::uint16_t* to = spikes.data();
    float* v = potentials ? potentials->data() : nullptr;
    nb::gil_scoped_release free;
    const std::size_t words = std::size_t(map.H) * map.words();
    Workers::share(threads, map.N * map.C, [&](int part, int) {
        const int n = part / map.C, c = part % map.C;
        const Currents currents{from + n * of_sample + c * of_channel, of_row, of_step, readable};
        now->fire(neuron, map, currents, c, to + part * words * map.T,
                  v ? v + part * words * LANES : nullptr);
    });
}

bool set(const std::uint16_t* row, int x) { return row[x / LANES] >> x % LANES & 1; }

// Spikes to 0 and 1: (N, C, H, T, W) to rows `strides` floats apart.
void unpack(Words x, Sizes sizes, OutFloats out, Strides strides, int threads) {
    const Map map = map_of(sizes);
    require(x.size() == spikes_in(map), "x has another size");
    require(lie_within(map, strides, map.W, out.size()), "out is smaller than its strides say");
    threads = sharing(threads);
    const std::size_t of_sample = std::get<0>(strides), of_channel = std::get<1>(strides),
                      of_row = std::get<2>(strides), of_step = std::get<3>(strides);
    const std::uint16_t* from = x.data();
    float* to = out.data();
    nb::gil_scoped_release free;
    Workers::share(threads, map.N * map.C, [&](int part, int) {
        const std::uint16_t* row = from + std::size_t(part) * map.H * map.T * map.words();
        float* channel = to + part / map.C * of_sample + part % map.C * of_channel;
        for (int y = 0; y < map.H; ++y)
            for (int t = 0; t < map.T; ++t, row += map.words())
                for (int i = 0; i < map.W; ++i)
                    channel[y * of_row + t * of_step + i] = set(row, i) ? 1.0f : 0.0f;
    });
}

// Spikes of flat features, with a lane for each sample: (N, C, H, T, words of W) to
// (groups, C H W, 1, T, words of `lanes`).
void flatten(Words x, Sizes sizes, int lanes, OutWords out, int threads) {
    const Map map = map_of(sizes);
    require(lanes >= LANES && lanes <= LARGEST && lanes % LANES == 0, "lanes is no number of words");
    const int groups = (map.N + lanes - 1) / lanes, wide = lanes / LANES;
    const Map turned = checked({groups, map.C * map.H * map.W, 1, lanes, map.T});
    require(x.size() == spikes_in(map), "x has another size");
    require(out.size() == spikes_in(turned), "out has another size");
    threads = sharing(threads);
    const std::uint16_t* from = x.data();
    std::uint16_t* to = out.data();
    nb::gil_scoped_release free;
    const std::size_t size = spikes_in(turned) / groups / map.C;
    Workers::share(threads, groups * map.C, [&](int part, int) {
        const int group = part / map.C, c = part % map.C;
        std::uint16_t* channel = to + part * size;
        std::memset(channel, 0, size * sizeof *channel);
        for (int n = group * lanes; n < std::min(map.N, (group + 1) * lanes); ++n) {
            const std::uint16_t* row =
                from + (std::size_t(n) * map.C + c) * map.H * map.T * map.words();
            const int word = n % lanes / LANES;
            const auto bit = std::uint16_t(1u << n % LANES);
            for (int y = 0; y < map.H; ++y)
                for (int t = 0; t < map.T; ++t)
                    for (int k = 0; k < map.words(); ++k, ++row)
                        for (unsigned left = columns_of(map, k, *row); left; left &= left - 1) {
                            const int at = y * map.W + k * LANES + __builtin_ctz(left);
                            channel[(std::size_t(at) * map.T + t) * wide + word] |= bit;
                        }
        }
    });
}

struct Window {
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;

    Window(Pair kernel, Pair stride, Pair padding)
        : kernel_h(kernel.first), kernel_w(kernel.second), stride_h(stride.first),
          stride_w(stride.second), pad_h(padding.first), pad_w(padding.second) {
        require(are_sizes({kernel_h, kernel_w, stride_h, stride_w, pad_h + 1, pad_w + 1}),
                "a size is below 1 or too large");
    }

    Map of(const Map& in) const {
        const Map found{in.N, in.C, slid(in.H, kernel_h, stride_h, pad_h, 1),
                        slid(in.W, kernel_w, stride_w, pad_w, 1), in.T};
        require(found.H >= 1 && found.W >= 1, "the map is smaller than the window");
        return checked(found);
    }

    bool halves() const {
        return kernel_h == 2 && kernel_w == 2 && stride_h == 2 && stride_w == 2 && pad_h == 0 &&
               pad_w == 0;
    }
};

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
    for (int y = 0; y < to.H; ++y, channel += 2 * row)
        for (int t = 0; t < map.T; ++t, out += to.words())
            for (int k = 0; k < to.words(); ++k) {
                const std::uint16_t* at = channel + t * wide + 2 * k;
                std::uint32_t any = std::uint32_t(at[0] | at[row]);
                if (2 * k + 1 < wide) any |= std::uint32_t(at[1] | at[row + 1]) << LANES;
                out[k] = std::uint16_t(columns_of(to, k, halved(any | any >> 1)));
            }
}

// Any windows of one channel.
void pool_any(const Map& map, const Map& to, const Window& w, const std::uint16_t* channel,
              std::uint16_t* out) {
    const int wide = map.words();
    for (int y = 0; y < to.H; ++y)
        for (int t = 0; t < map.T; ++t, out += to.words()) {
            std::memset(out, 0, std::size_t(to.words()) * sizeof *out);
            for (int i = 0; i < w.kernel_h; ++i) {
                const int row = y * w.stride_h - w.pad_h + i;
                if (row < 0 || row >= map.H) continue;
                const std::uint16_t* spikes = channel + (std::size_t(row) * map.T + t) * wide;
                for (int x = 0; x < to.W; ++x)
                    for (int j = 0; j < w.kernel_w; ++j) {
                        const int at = x * w.stride_w - w.pad_w + j;
                        if (at >= 0 && at < map.W && set(spikes, at))
                            out[x / LANES] |= std::uint16_t(1u << x % LANES);
                    }
            }
        }
}

// Whether a spike is in the window: the largest of zeros and ones.
void pool_max(Words x, Sizes sizes, Pair kernel, Pair stride, Pair padding, OutWords out,
              int threads) {
    const Map map = map_of(sizes);
    const Window w(kernel, stride, padding);
    const Map to = w.of(map);
    require(x.size() == spikes_in(map), "x has another size");
    require(out.size() == spikes_in(to), "out has another size");
    threads = sharing(threads);
    const std::uint16_t* from = x.data();
    std::uint16_t* result = out.data();
    nb::gil_scoped_release free;
    Workers::share(threads, map.N * map.C, [&](int part, int) {
        const std::uint16_t* channel = from + std::size_t(part) * map.H * map.T * map.words();
        std::uint16_t* pooled = result + std::size_t(part) * to.H * to.T * to.words();
        if (w.halves())
            pool_pairs(map, to, channel, pooled);
        else
            pool_any(map, to, w, channel, pooled);
    });
}

// Spikes in each window, divided by its size.
void pool_average(Words x, Sizes sizes, Pair kernel, Pair stride, OutFloats out, int threads) {
    const Map map = map_of(sizes);
    const Window w(kernel, stride, {0, 0});
    const Map to = w.of(map);
    require(x.size() == spikes_in(map), "x has another size");
    require(out.size() == numbers_in(to), "out has another size");
    threads = sharing(threads);
    const std::uint16_t* from = x.data();
    float* result = out.data();
    nb::gil_scoped_release free;
    const auto size = float(double(w.kernel_h) * w.kernel_w);
    Workers::share(threads, map.N * map.C, [&](int part, int) {
        const int wide = map.words(), line = to.words() * LANES;
        const std::uint16_t* channel = from + std::size_t(part) * map.H * map.T * wide;
        float* row = result + std::size_t(part) * to.H * to.T * line;
        for (int y = 0; y < to.H; ++y)
            for (int t = 0; t < map.T; ++t, row += line)
                for (int k = 0; k < line; ++k) {
                    int count = 0;
                    for (int i = 0; i < w.kernel_h && k < to.W; ++i) {
                        const std::size_t from_row = std::size_t(y) * w.stride_h + i;
                        const std::uint16_t* spikes = channel + (from_row * map.T + t) * wide;
                        for (int j = 0; j < w.kernel_w; ++j) count += set(spikes, k * w.stride_w + j);
                    }
                    row[k] = float(count) / size;
                }
    });
}

auto array(const char* name) { return nb::arg(name).noconvert(); }

}  // namespace

NB_MODULE(_kernels, m) {
    using nb::arg;
    m.def("paths", &paths);
    m.def("path", [] { return std::string(path->name); });
    m.def("use", &use, arg("name"));
    nb::class_<Neurons>(m, "Neurons")
        .def(nb::init<int, float, float, std::optional<float>, std::optional<Floats>, float,
                      float>(),
             arg("charge"), arg("constant"), arg("threshold"), arg("reset").none(),
             array("beta").none(), arg("recovery"), arg("rise"));
    nb::class_<Layer>(m, "Layer")
        .def(nb::init<Kernel, Starts, Places, Floats, Floats, Shape, int, Pair, Pair, Pair, int,
                      int>(),
             arg("kernel"), array("starts"), array("places"), array("values"), array("bias"),
             arg("shape"), arg("T"), arg("stride"), arg("padding"), arg("dilation"), arg("groups"),
             arg("threads"))
        .def_prop_ro("shape", &Layer::shape)
        .def_prop_ro("synapses", &Layer::synapses)
        .def_prop_ro("additions", &Layer::additions)
        .def("spikes", &Layer::run<Words>, array("x"), array("spikes").none(),
             array("numbers").none(), array("potentials").none(), arg("neurons").none(), arg("N"),
             arg("T"), arg("threads"))
        .def("numbers", &Layer::run<Floats>, array("x"), array("spikes").none(),
             array("numbers").none(), array("potentials").none(), arg("neurons").none(), arg("N"),
             arg("T"), arg("threads"));
    nb::class_<EventLayer>(m, "EventLayer")
        .def(nb::init<Kernel, Starts, Places, Floats, Floats, int, int>(), arg("kernel"),
             array("starts"), array("places"), array("values"), array("bias"), arg("T"),
             arg("threads"))
        .def_prop_ro("synapses", &EventLayer::synapses)
        .def("spikes", &EventLayer::run, array("x"), arg("shape"), array("spikes").none(),
             array("numbers").none(), array("potentials").none(), arg("neurons").none(), arg("N"),
             arg("threads"));
    m.def("fire", &fire, array("x"), arg("strides"), arg("readable"), arg("shape"),
          arg("neurons"), array("spikes"), array("potentials").none(), arg("threads"));
    m.def("unpack", &unpack, array("x"), arg("shape"), array("out"), arg("strides"),
          arg("threads"));
    m.def("flatten", &flatten, array("x"), arg("shape"), arg("lanes"), array("out"),
          arg("threads"));
    m.def("pool_max", &pool_max, array("x"), arg("shape"), arg("kernel"), arg("stride"),
          arg("padding"), array("out"), arg("threads"));
    m.def("pool_average", &pool_average, array("x"), arg("shape"), arg("kernel"), arg("stride"),
          array("out"), arg("threads"));
}
