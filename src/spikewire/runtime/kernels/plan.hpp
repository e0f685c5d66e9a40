// What the kernels of every path are told, and what they are called. Plain data: nothing that a
// linker could merge between files that are compiled for different processors.
#pragma once

#include <cstddef>
#include <cstdint>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words that lie side by side are read as one: the first must be the lower half"
#endif

// What is compiled for several processors must be part of its caller: a linker keeps one of them.
#define SPIKEWIRE_INLINE [[gnu::always_inline]] inline

namespace spikewire {

constexpr int LANES = 16;     // numbers in a vector, bits in a word
constexpr int MOST_WORDS = 24;  // vectors whose sums are kept in registers at once
constexpr int MOST_SUMS = 64;   // vectors whose sums are kept until their neurons have fired
constexpr int AHEAD = 4;        // synapses whose inputs are asked for before they are met

struct Synapse {
    std::int32_t address;  // in the packed input, relative to the output's place
    float weight;
};

enum Charge { INTEGRATE, DIVIDE, MULTIPLY, LEAK };

struct Neuron {
    Charge charge;
    float constant, threshold, rest;
    bool subtract;  // the threshold after a spike, instead of going to rest
    const float* beta;  // (C,) or null
    float recovery, rise;
};

// Maps of spikes are words (N, C, H, T, words): bit j of word w is column 16 w + j. Maps of numbers
// are floats (N, C, H, T, 16 words).
struct Map {
    int N, C, H, W, T;
    SPIKEWIRE_INLINE int words() const { return (W + LANES - 1) / LANES; }
};

// How outputs are cut into blocks of vectors, and inputs packed so that the words that a synapse
// meets lie side by side: [channel][tap across][row][part][time chunk][time][vector].
struct Plan {
    Map in, out;
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int across;   // columns of a vector that belong to one row; 16 or a power of two below
    int rows;     // rows in a vector: 16 / across
    int merged;   // rows of vectors in a block
    int vectors;  // vectors of a row in a block
    int parts;    // blocks in a row
    int chunks, steps;  // of time, and time steps in each
    int packed_rows;

    SPIKEWIRE_INLINE int kept() const { return merged * vectors; }  // vectors of an output
    SPIKEWIRE_INLINE int words() const { return merged * steps * vectors; }  // that a synapse meets
    SPIKEWIRE_INLINE int entry() const { return steps * vectors; }
    SPIKEWIRE_INLINE std::size_t row() const { return std::size_t(parts) * chunks * entry(); }
    SPIKEWIRE_INLINE std::size_t channel() const { return std::size_t(kernel_w) * packed_rows * row(); }
    SPIKEWIRE_INLINE std::size_t packed() const { return in.C * channel(); }  // words or vectors of one sample
    SPIKEWIRE_INLINE bool as_it_is() const {  // the map itself is packed already
        return kernel_w == 1 && stride_w == 1 && stride_h == 1 && pad_w == 0 && pad_h == 0 &&
               rows == 1 && parts == 1 && chunks == 1 && packed_rows == in.H &&
               vectors == in.words();
    }
};

struct Connections {  // of each output, in the order in which they are added up
    const Synapse* synapses;
    const std::int64_t* starts;  // (out + 1,)
    const float* bias;
};

struct Columns {  // of each input, in blocks of outputs
    const std::int64_t* starts;     // (blocks, in + 1)
    const std::uint16_t* outputs;   // within the block
    const float* weights;
    const float* bias;
    int in, out, blocks;
};
constexpr int COLUMN_BLOCK = 512;

struct Currents {  // of a channel, (H, T, W) with any distances between rows and time steps
    const float* data;
    std::ptrdiff_t row, step;
    int readable;  // numbers in a row
};

// One part of the work; `share` counts parts.
struct Kernels {
    const char* name;
    // spikes of a channel -> packed
    void (*pack_spikes)(const Plan&, const std::uint16_t* map, std::uint16_t* rows,
                        std::uint16_t* packed);
    void (*pack_numbers)(const Plan&, const float* map, float* packed);
    // one block, outputs first .. last; either spikes or numbers are written
    void (*gather_spikes)(const Plan&, const Connections&, const Neuron*, int block, int first,
                          int last, const std::uint16_t* packed, std::uint16_t* spikes,
                          float* numbers, float* potentials);
    void (*gather_numbers)(const Plan&, const Connections&, const Neuron*, int block, int first,
                           int last, const float* packed, std::uint16_t* spikes, float* numbers,
                           float* potentials);
    // one channel of a sample
    void (*fire)(const Neuron&, const Map&, const Currents&, int channel, std::uint16_t* spikes,
                 float* potentials);
    // a block of outputs of one sample, from the times (chunks, in) at which inputs fire
    void (*scatter)(const Columns&, const Neuron*, int T, int block, const std::uint16_t* times,
                    std::uint16_t* spikes, float* numbers, float* potentials);
};

extern const Kernels portable;
extern const Kernels avx2;
extern const Kernels avx512;

}  // namespace spikewire
