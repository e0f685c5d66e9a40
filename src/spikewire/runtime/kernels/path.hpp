// The kernels, once for every path: the including file says which (PATH) and is compiled for it.
// Nothing of the standard library's templates here: the linker would merge them between paths.
#pragma once

#include "plan.hpp"
#include "vector.hpp"

namespace spikewire::PATH {

// --- neurons -------------------------------------------------------------------------------------

struct Membrane {
    Vector v, b;
};

// A layer's constants, each in a register. What differs between kinds of neurons is known when this
// is compiled: they take as many instructions as they need.
template <Charge CHARGE, bool RESTS_AT_0, bool ADAPTS> struct Dynamics {
    Vector constant, threshold, rest, beta, recovery, rise;
    bool subtract;

    Dynamics(const Neuron& n, float beta)
        : constant(all(n.constant)), threshold(all(n.threshold)), rest(all(n.rest)),
          beta(all(beta)), recovery(all(n.recovery)), rise(all(n.rise)), subtract(n.subtract) {}

    Vector charged(Vector v, Vector x) const {
        if constexpr (CHARGE == INTEGRATE) return v + x;
        const Vector above = RESTS_AT_0 ? v : v - rest;  // taking 0 away changes nothing
        if constexpr (CHARGE == DIVIDE) return v + (x - above) / constant;
        if constexpr (CHARGE == MULTIPLY) return v + (x - above) * constant;
        return (RESTS_AT_0 ? above * constant : above * constant + rest) + x;
    }

    // One time step; returns which lanes fire.
    std::uint16_t step(Membrane& m, Vector x) const {
        const Vector u = charged(m.v, x);
        const Vector at = ADAPTS ? threshold + beta * m.b : threshold;
        const std::uint16_t fired = reaches(u, at);
        m.v = where(fired, subtract ? u - at : rest, u);
        if constexpr (ADAPTS) m.b = recovery * m.b + where(fired, rise, all(0.0f));
        return fired;
    }
};

// Where the currents of K vectors come from and their words go, and how far from one time step to
// the next; for how many of them.
template <int K> struct Steps {
    const float* x[K];
    std::uint16_t* words[K];
    std::ptrdiff_t stride, word_stride;
    int count;
};

// Several vectors at a time, as each step must wait for the one before.
template <int K, class D>
inline void steps_as(const D dynamics, Membrane* m, const Steps<K>& steps) {
    Membrane held[K];
    const Steps<K> s = steps;
    for (int i = 0; i < K; ++i) held[i] = m[i];
    for (int t = 0; t < s.count; ++t)
#pragma GCC unroll 8
        for (int i = 0; i < K; ++i)
            s.words[i][t * s.word_stride] = dynamics.step(held[i], load(s.x[i] + t * s.stride));
    for (int i = 0; i < K; ++i) m[i] = held[i];
}

template <Charge CHARGE, int K>
inline void steps_of(const Neuron& n, float beta, Membrane* m, const Steps<K>& steps) {
    if (n.beta)
        steps_as(Dynamics<CHARGE, false, true>(n, beta), m, steps);
    else if (n.rest == 0)
        steps_as(Dynamics<CHARGE, true, false>(n, beta), m, steps);
    else
        steps_as(Dynamics<CHARGE, false, false>(n, beta), m, steps);
}

template <int K>
inline void run(const Neuron& neuron, int channel, Membrane* m, const Steps<K>& steps) {
    const float beta = neuron.beta ? neuron.beta[channel] : 0.0f;  // never where lanes are channels
    switch (neuron.charge) {
        case INTEGRATE: return steps_of<INTEGRATE>(neuron, beta, m, steps);
        case DIVIDE: return steps_of<DIVIDE>(neuron, beta, m, steps);
        case MULTIPLY: return steps_of<MULTIPLY>(neuron, beta, m, steps);
        case LEAK: return steps_of<LEAK>(neuron, beta, m, steps);
    }
}

// --- sums ----------------------------------------------------------------------------------------

inline Vector meet(Vector sum, Vector weight, const std::uint16_t* spikes) {
    return add_where(sum, *spikes, weight);
}
inline Vector meet(Vector sum, Vector weight, const float* numbers) {
    return sum + weight * load(numbers);
}

template <class X> constexpr int WIDTH = 1;  // of a vector in the packed input
template <> constexpr int WIDTH<float> = LANES;

// N sums of one output, side by side in the packed input. Flattened: a vector that is handed to a
// function goes through memory.
template <int N, class X>
[[gnu::flatten]] inline void sum(const X* place, const Synapse* synapse, const Synapse* end,
                                 float bias, float* sums) {
    Vector held[N];
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) held[i] = all(bias);
    for (; synapse != end; ++synapse) {
        const X* x = place + std::ptrdiff_t(synapse->address) * WIDTH<X>;
        const Vector weight = all(synapse->weight);
        __builtin_prefetch(place + std::ptrdiff_t(synapse[AHEAD].address) * WIDTH<X>);
#pragma GCC unroll 32
        for (int i = 0; i < N; ++i) held[i] = meet(held[i], weight, x + i * WIDTH<X>);
    }
#pragma GCC unroll 32
    for (int i = 0; i < N; ++i) store(sums + i * LANES, held[i]);
}

template <int N, class X>
inline void sum_some(int count, const X* place, const Synapse* synapse, const Synapse* end,
                     float bias, float* sums) {
    if constexpr (N > 0) {
        if (count == N) return sum<N>(place, synapse, end, bias, sums);
        sum_some<N - 1>(count, place, synapse, end, bias, sums);
    }
}

// Any number of sums: in equal parts, for which there are registers.
template <class X>
inline void sum_all(int count, const X* place, const Synapse* synapse, const Synapse* end,
                    float bias, float* sums) {
    const int parts = (count + REGISTERS - 1) / REGISTERS, each = (count + parts - 1) / parts;
    for (int i = 0; i < count; i += each) {
        const int some = count - i < each ? count - i : each;
        sum_some<REGISTERS>(some, place + i * WIDTH<X>, synapse, end, bias, sums + i * LANES);
    }
}

// --- where sums and spikes go --------------------------------------------------------------------

inline std::uint16_t valid(int columns) {  // the first lanes of a word
    return columns >= LANES ? 0xffff : std::uint16_t((1u << columns) - 1);
}

// The place of a vector in a map: its channel, output row and word; and of its currents in the sums.
struct Place {
    int channel, y, vector, currents;
    std::size_t in(const Map& out, int row, int steps, int t) const {
        return ((std::size_t(channel) * out.H + y + row) * steps + t) * out.words() + vector;
    }
};

// Words of `count` time steps from t0 on; a vector may hold several rows.
inline void put(const Plan& plan, const Place& place, int t0, int count,
                const std::uint16_t* fired, std::uint16_t* map) {
    const Map& out = plan.out;
    const std::uint16_t mask = valid(out.W - place.vector * LANES);
    for (int row = 0; row < plan.rows && place.y + row < out.H; ++row) {
        std::uint16_t* to = map + place.in(out, row, out.T, t0);
        const int words = out.words(), shift = row * plan.across;
        for (int t = 0; t < count; ++t) to[t * words] = std::uint16_t(fired[t] >> shift) & mask;
    }
}

inline void put(const Plan& plan, const Place& place, int steps, int t, const float* x,
                float* map) {
    for (int row = 0; row < plan.rows && place.y + row < plan.out.H; ++row)
        std::memcpy(map + place.in(plan.out, row, steps, t) * LANES, x + row * plan.across,
                    sizeof(float) * std::size_t(plan.across));
}

// --- a block of outputs --------------------------------------------------------------------------

// What becomes of the sums of some outputs in one block and chunk of time.
struct Target {
    const Plan& plan;
    const Neuron* neuron;
    const Place* places;  // of `kept` vectors; channels are counted from `channel`
    int kept, channel, t0, count;
    std::uint16_t* spikes;
    float *numbers, *potentials;

    Place place(int i) const {
        Place found = places[i];
        found.channel += channel;
        return found;
    }
    bool outside(const Place& p) const { return p.vector >= plan.out.words() || p.y >= plan.out.H; }

    // From one time step's currents to the next; 0 if they are the same.
    std::ptrdiff_t stride() const {
        return plan.in.T == 1 ? 0 : std::ptrdiff_t(plan.vectors) * LANES;
    }

    void keep(const float* sums) const {
        for (int i = 0; i < kept; ++i) {
            const Place p = place(i);
            for (int t = 0; t < count && !outside(p); ++t)
                put(plan, p, plan.out.T, t0 + t, sums + p.currents + t * stride(), numbers);
        }
    }

    template <int K> void fire(const float* sums, Membrane* membranes, int i) const {
        const Map& out = plan.out;
        const bool whole = plan.rows == 1 && out.W % LANES == 0 && plan.parts == 1;
        std::uint16_t fired[K][LANES];
        Steps<K> s{{}, {}, stride(), whole ? out.words() : 1, count};
        for (int k = 0; k < K; ++k) {
            const Place p = place(i + k);
            s.x[k] = sums + p.currents;
            s.words[k] = whole ? spikes + p.in(out, 0, out.T, t0) : fired[k];
        }
        run(*neuron, place(i).channel, membranes + i, s);
        for (int k = 0; k < K; ++k) {
            const Place p = place(i + k);
            if (outside(p)) continue;
            if (!whole) put(plan, p, t0, count, fired[k], spikes);
            if (!potentials || t0 + count < out.T) continue;
            float last[LANES];
            store(last, membranes[i + k].v);
            put(plan, p, 1, 0, last, potentials);
        }
    }

    void fire(const float* sums, Membrane* membranes) const {
        int i = 0;
        for (; i + 4 <= kept; i += 4) fire<4>(sums, membranes, i);
        for (; i + 2 <= kept; i += 2) fire<2>(sums, membranes, i);
        for (; i < kept; ++i) fire<1>(sums, membranes, i);
    }
};

// How many outputs fire together. Each time step waits for the one before, so that one vector of
// neurons leaves most of the processor idle; four do not.
inline int side_by_side(const Plan& plan, const Neuron* neuron) {
    if (!neuron || neuron->beta) return 1;  // beta is that of one channel
    const int wanted = (4 + plan.kept() - 1) / plan.kept(), room = MOST_SUMS / plan.words();
    return wanted < room ? wanted : room;
}

// The places of a block, of so many outputs: counted once, as a division takes as long as a spike.
inline void find(const Plan& plan, int top, int part, int outputs, Place* places) {
    for (int o = 0; o < outputs; ++o)
        for (int row = 0; row < plan.merged; ++row)
            for (int v = 0; v < plan.vectors; ++v, ++places)
                *places = {o, top + row * plan.rows, part * plan.vectors + v,
                           (o * plan.words() + row * plan.entry() + v) * LANES};
}

template <class X>
void gather(const Plan& plan, const Connections& layer, const Neuron* neuron, int block, int first,
            int last, const X* packed, std::uint16_t* spikes, float* numbers, float* potentials) {
    const int top = block / plan.parts * plan.merged * plan.rows, part = block % plan.parts;
    const int most = side_by_side(plan, neuron);
    const bool still = plan.in.T == 1;  // then the sums are those of all time steps
    const int chunk = still ? LANES : plan.steps;
    const X* place = packed + (std::size_t(top) * plan.stride_h * plan.row() +
                               std::size_t(part) * plan.chunks * plan.entry()) * WIDTH<X>;
    float sums[MOST_SUMS * LANES];
    Membrane membranes[MOST_SUMS];
    Place places[MOST_SUMS];
    find(plan, top, part, most, places);
    for (int o = first; o < last; o += most) {
        const int outputs = last - o < most ? last - o : most, kept = outputs * plan.kept();
        for (int i = 0; neuron && i < kept; ++i) membranes[i] = {all(neuron->rest), all(0.0f)};
        for (int t0 = 0; t0 < plan.out.T; t0 += chunk) {
            const X* x = place + std::size_t(t0) * plan.vectors * WIDTH<X>;
            for (int i = o; i < o + outputs && (t0 == 0 || !still); ++i)
                sum_all(plan.words(), x, layer.synapses + layer.starts[i],
                        layer.synapses + layer.starts[i + 1], layer.bias[i],
                        sums + (i - o) * plan.words() * LANES);
            const int count = plan.out.T - t0 < chunk ? plan.out.T - t0 : chunk;
            const Target target{plan, neuron, places,  kept,    o,
                                t0,   count,  spikes, numbers, potentials};
            if (neuron)
                target.fire(sums, membranes);
            else
                target.keep(sums);
        }
    }
}

// --- packing -------------------------------------------------------------------------------------

// Columns start, start + stride, ... of a row of words; what lies outside is 0.
inline void pick(const std::uint16_t* row, int width, int start, int stride, int count,
                 std::uint16_t* picked) {
    for (int word = 0; word * LANES < count; ++word) {
        unsigned found = 0;
        for (int j = 0; j < LANES && word * LANES + j < count; ++j) {
            const int x = start + (word * LANES + j) * stride;
            if (x >= 0 && x < width) found |= unsigned(row[x / LANES] >> x % LANES & 1) << j;
        }
        picked[word] = std::uint16_t(found);
    }
}

template <class WORD> inline WORD first_bits(int count) {
    return count >= int(8 * sizeof(WORD)) ? WORD(~WORD(0)) : WORD((WORD(1) << count) - 1);
}

// The same where a row of the map and of the output is one number; maps may lie at any address.
template <class WORD>
inline void shift(const Plan& plan, const std::uint16_t* map, int start, int count,
                  std::uint16_t* shifted) {
    const WORD before = first_bits<WORD>(plan.in.W), after = first_bits<WORD>(plan.out.W);
    const int size = int(8 * sizeof(WORD)), right = start > 0 ? start : 0, left = right - start;
    const bool outside = right >= size || left >= size;
    constexpr std::size_t width = sizeof(WORD) / sizeof *map;
    for (int i = 0; i < count; ++i) {
        WORD row;
        std::memcpy(&row, map + i * width, sizeof row);
        row = outside ? WORD(0) : WORD(WORD((row & before) >> right) << left) & after;
        std::memcpy(shifted + i * width, &row, sizeof row);
    }
}

// All rows (H, T) of a channel, as one tap across sees them: words (H, T, vectors of the output).
inline void seen(const Plan& plan, const std::uint16_t* map, int tap, std::uint16_t* rows) {
    const int start = tap * plan.dilation_w - plan.pad_w, words = plan.in.words();
    const int count = plan.in.H * plan.in.T, wide = plan.out.words();
    const int one = plan.stride_w == 1 && wide == words ? words : 0;
    if (one == 1) return shift<std::uint16_t>(plan, map, start, count, rows);
    if (one == 2) return shift<std::uint32_t>(plan, map, start, count, rows);
    if (one == 4) return shift<std::uint64_t>(plan, map, start, count, rows);
    for (int i = 0; i < count; ++i)
        pick(map + std::size_t(i) * words, plan.in.W, start, plan.stride_w, plan.out.W,
             rows + std::size_t(i) * wide);
}

// Rows (H, T, vectors) to where blocks look for them.
inline void arrange(const Plan& plan, const std::uint16_t* rows, std::uint16_t* packed) {
    const int T = plan.in.T, wide = plan.out.words();
    for (int r = 0; r < plan.packed_rows; ++r, packed += plan.row()) {
        for (int row = 0; row < plan.rows; ++row) {
            const int y = r - plan.pad_h + row * plan.stride_h;
            if (y < 0 || y >= plan.in.H) continue;
            for (int v = 0; v < wide; ++v) {
                const std::uint16_t* from = rows + std::size_t(y) * T * wide + v;
                std::uint16_t* part = packed + std::size_t(v / plan.vectors) * plan.chunks *
                                                   plan.entry() + v % plan.vectors;
                for (int t = 0; t < T; ++t)  // chunks follow one another as time steps do
                    part[t * plan.vectors] |= std::uint16_t(from[t * wide] << row * plan.across);
            }
        }
    }
}

// `rows` has room for (H, T, vectors) words.
void pack_spikes(const Plan& plan, const std::uint16_t* map, std::uint16_t* rows,
                 std::uint16_t* packed) {
    const std::size_t size = plan.packed_rows * plan.row();
    std::memset(packed, 0, plan.kernel_w * size * sizeof *packed);
    const bool plain = plan.rows == 1 && plan.stride_h == 1 && plan.parts == 1 &&
                       plan.chunks == 1 && plan.vectors == plan.out.words();
    for (int tap = 0; tap < plan.kernel_w; ++tap, packed += size) {
        if (plain) {
            seen(plan, map, tap, packed + plan.pad_h * plan.row());
        } else {
            seen(plan, map, tap, rows);
            arrange(plan, rows, packed);
        }
    }
}

void pack_numbers(const Plan& plan, const float* map, float* packed) {
    const int T = plan.in.T, words = plan.in.words();
    for (int tap = 0; tap < plan.kernel_w; ++tap) {
        float* to = packed + std::size_t(tap) * plan.packed_rows * plan.row() * LANES;
        const int start = tap * plan.dilation_w - plan.pad_w;
        for (int r = 0; r < plan.packed_rows; ++r, to += plan.row() * LANES) {
            for (int t = 0; t < plan.chunks * plan.steps; ++t) {
                for (int v = 0; v < plan.parts * plan.vectors; ++v) {
                    const int part = v / plan.vectors, chunk = t / plan.steps;
                    float* lanes = to + (((std::size_t(part) * plan.chunks + chunk) * plan.steps +
                                          t % plan.steps) * plan.vectors + v % plan.vectors) * LANES;
                    for (int lane = 0; lane < LANES; ++lane) {
                        const int y = r - plan.pad_h + lane / plan.across * plan.stride_h;
                        const int column = v * LANES + lane % plan.across;
                        const int x = start + column * plan.stride_w;
                        const bool inside = t < T && column < plan.out.W && y >= 0 &&
                                            y < plan.in.H && x >= 0 && x < plan.in.W;
                        lanes[lane] =
                            inside ? map[((std::size_t(y) * T + t) * words) * LANES + x] : 0.0f;
                    }
                }
            }
        }
    }
}

// --- neurons that stand alone --------------------------------------------------------------------

// K vectors of a channel (H, W) from number `first` on, for all time steps.
template <int K>
inline void fire_some(const Neuron& neuron, const Map& map, const Currents& x, int channel,
                      int first, std::uint16_t* spikes, float* potentials) {
    const int words = map.words();
    Membrane membranes[K];
    for (Membrane& m : membranes) m = {all(neuron.rest), all(0.0f)};
    for (int t0 = 0; t0 < map.T; t0 += LANES) {
        const int count = map.T - t0 < LANES ? map.T - t0 : LANES;
        float lanes[K][LANES * LANES];
        std::uint16_t fired[K][LANES] = {};
        Steps<K> s{{}, {}, x.step, 1, count};
        for (int i = 0; i < K; ++i) {
            const int y = (first + i) / words, left = x.readable - (first + i) % words * LANES;
            const float* from = x.data + y * x.row + (first + i) % words * LANES + t0 * x.step;
            s.words[i] = fired[i];
            s.x[i] = from;
            if (x.readable % LANES == 0) continue;
            s.stride = LANES;  // rows end within a vector: nothing beyond them may be read
            for (int t = 0; t < count; ++t)
                for (int lane = 0; lane < LANES; ++lane)
                    lanes[i][t * LANES + lane] = lane < left ? from[t * x.step + lane] : 0.0f;
            s.x[i] = lanes[i];
        }
        run(neuron, channel, membranes, s);
        for (int i = 0; i < K; ++i) {
            const int y = (first + i) / words, w = (first + i) % words;
            for (int t = 0; t < count; ++t)
                spikes[(std::size_t(y) * map.T + t0 + t) * words + w] =
                    fired[i][t] & valid(map.W - w * LANES);
        }
    }
    for (int i = 0; potentials && i < K; ++i) store(potentials + (first + i) * LANES, membranes[i].v);
}

void fire(const Neuron& neuron, const Map& map, const Currents& x, int channel,
          std::uint16_t* spikes, float* potentials) {
    const int count = map.H * map.words();
    int i = 0;
    for (; i + 4 <= count; i += 4) fire_some<4>(neuron, map, x, channel, i, spikes, potentials);
    for (; i < count; ++i) fire_some<1>(neuron, map, x, channel, i, spikes, potentials);
}

// --- events --------------------------------------------------------------------------------------

// How the time steps of one output are added to: eight of them, or sixteen.
struct Eight {
    static constexpr int LENGTH = LANES / 2;
    static void fill(float* sum, float x) { store(sum, half(x)); }
    static void add(float* sum, std::uint16_t times, float weight) {
        store(sum, add_where(load_half(sum), times, half(weight)));
    }
};
struct Sixteen {
    static constexpr int LENGTH = LANES;
    static void fill(float* sum, float x) { store(sum, all(x)); }
    static void add(float* sum, std::uint16_t times, float weight) {
        store(sum, add_where(load(sum), times, all(weight)));
    }
};

// Sums of a block of outputs (outputs, time steps): inputs that never fire are passed over.
template <class A>
inline void follow(const Columns& layer, int block, const std::uint16_t* times, float* sums) {
    const int from = block * COLUMN_BLOCK;
    const std::int64_t* starts = layer.starts + std::size_t(block) * (layer.in + 1);
    for (int o = 0; o < COLUMN_BLOCK; ++o)
        A::fill(sums + o * A::LENGTH, from + o < layer.out ? layer.bias[from + o] : 0.0f);
    for (int j = 0; j < layer.in; ++j) {
        if (!times[j]) continue;
        for (std::int64_t e = starts[j]; e < starts[j + 1]; ++e)
            A::add(sums + layer.outputs[e] * A::LENGTH, times[j], layer.weights[e]);
    }
}

// Sixteen outputs (outputs, time steps) to (time steps, outputs).
inline void turn(const float* sums, int length, int count, float* turned) {
    for (int t = 0; t < count; ++t)
        for (int lane = 0; lane < LANES; ++lane) turned[t * LANES + lane] = sums[lane * length + t];
}

void scatter(const Columns& layer, const Neuron* neuron, int T, int block,
             const std::uint16_t* times, std::uint16_t* spikes, float* numbers,
             float* potentials) {
    const int words = (layer.out + LANES - 1) / LANES, first = block * COLUMN_BLOCK / LANES;
    const int count = words - first < COLUMN_BLOCK / LANES ? words - first : COLUMN_BLOCK / LANES;
    const int length = T <= Eight::LENGTH ? Eight::LENGTH : Sixteen::LENGTH;
    Membrane membranes[COLUMN_BLOCK / LANES];
    alignas(64) float sums[COLUMN_BLOCK * LANES], turned[LANES * LANES];
    for (int w = 0; neuron && w < count; ++w) membranes[w] = {all(neuron->rest), all(0.0f)};
    for (int t0 = 0; t0 < T; t0 += LANES, times += layer.in) {
        const int some = T - t0 < LANES ? T - t0 : LANES;
        if (length == Eight::LENGTH)
            follow<Eight>(layer, block, times, sums);
        else
            follow<Sixteen>(layer, block, times, sums);
        for (int w = 0; w < count; ++w) {
            turn(sums + w * LANES * length, length, some, turned);
            const std::size_t at = std::size_t(t0) * words + first + w;
            for (int t = 0; !neuron && t < some; ++t)
                store(numbers + (at + std::size_t(t) * words) * LANES, load(turned + t * LANES));
            if (!neuron) continue;
            std::uint16_t fired[LANES] = {};
            run<1>(*neuron, 0, &membranes[w], {{turned}, {fired}, LANES, 1, some});
            for (int t = 0; t < some; ++t)
                spikes[at + std::size_t(t) * words] =
                    fired[t] & valid(layer.out - (first + w) * LANES);
            if (potentials && t0 + some == T)
                store(potentials + (first + w) * LANES, membranes[w].v);
        }
    }
}

}  // namespace spikewire::PATH

namespace spikewire {
const Kernels TABLE = {
    NAME,
    PATH::pack_spikes,
    PATH::pack_numbers,
    PATH::gather<std::uint16_t>,
    PATH::gather<float>,
    PATH::fire,
    PATH::scatter,
};
}
