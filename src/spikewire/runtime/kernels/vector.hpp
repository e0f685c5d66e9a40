// Sixteen floats, in the way of the processor that the including file is compiled for.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(SPIKEWIRE_AVX512) || defined(SPIKEWIRE_AVX2)
#include <immintrin.h>
#endif

// Sums that are kept in registers at once. Sanitizers ask for few: they take long to compile.
#ifndef SPIKEWIRE_REGISTERS
#define SPIKEWIRE_REGISTERS(count) count
#endif

namespace spikewire::PATH {

#if !defined(SPIKEWIRE_AVX512)

// For each byte of spikes, all bits or none for each of eight floats.
struct Spread {
    std::uint32_t masks[256][8];
    constexpr Spread() : masks{} {
        for (unsigned byte = 0; byte < 256; ++byte)
            for (unsigned i = 0; i < 8; ++i) masks[byte][i] = byte >> i & 1 ? ~0u : 0;
    }
};
alignas(32) static constexpr Spread SPREAD;

#endif

#if defined(SPIKEWIRE_AVX512) || defined(SPIKEWIRE_AVX2)

// Eight floats, for eight time steps of one output.
struct Half {
    __m256 x;
};
inline Half half(float x) { return {_mm256_set1_ps(x)}; }
inline Half load_half(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Half a) { _mm256_storeu_ps(p, a.x); }

#endif

#if defined(SPIKEWIRE_AVX512)

struct Vector {
    __m512 x;
};
constexpr int REGISTERS = SPIKEWIRE_REGISTERS(24);

inline Vector all(float x) { return {_mm512_set1_ps(x)}; }
inline Vector load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vector a) { _mm512_storeu_ps(p, a.x); }
inline Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.x, b.x)}; }
inline Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.x, b.x)}; }
inline Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.x, b.x)}; }
inline Vector operator/(Vector a, Vector b) { return {_mm512_div_ps(a.x, b.x)}; }
inline Vector add_where(Vector a, std::uint16_t mask, Vector b) {
    return {_mm512_mask_add_ps(a.x, mask, a.x, b.x)};
}
inline Vector where(std::uint16_t mask, Vector a, Vector b) {
    return {_mm512_mask_blend_ps(mask, b.x, a.x)};
}
inline std::uint16_t reaches(Vector a, Vector b) {
    return _mm512_cmp_ps_mask(a.x, b.x, _CMP_GE_OQ);
}
inline Half add_where(Half a, std::uint16_t mask, Half b) {
    return {_mm256_mask_add_ps(a.x, __mmask8(mask), a.x, b.x)};
}

#elif defined(SPIKEWIRE_AVX2)

struct Vector {
    __m256 x, y;
};
constexpr int REGISTERS = SPIKEWIRE_REGISTERS(5);

inline Vector all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vector load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vector a) {
    _mm256_storeu_ps(p, a.x);
    _mm256_storeu_ps(p + 8, a.y);
}
inline Vector operator+(Vector a, Vector b) {
    return {_mm256_add_ps(a.x, b.x), _mm256_add_ps(a.y, b.y)};
}
inline Vector operator-(Vector a, Vector b) {
    return {_mm256_sub_ps(a.x, b.x), _mm256_sub_ps(a.y, b.y)};
}
inline Vector operator*(Vector a, Vector b) {
    return {_mm256_mul_ps(a.x, b.x), _mm256_mul_ps(a.y, b.y)};
}
inline Vector operator/(Vector a, Vector b) {
    return {_mm256_div_ps(a.x, b.x), _mm256_div_ps(a.y, b.y)};
}
inline __m256 spread(unsigned byte) {
    return _mm256_load_ps(reinterpret_cast<const float*>(SPREAD.masks[byte]));
}
// Adding 0 changes nothing: a sum never is -0.
inline Vector add_where(Vector a, std::uint16_t mask, Vector b) {
    return {_mm256_add_ps(a.x, _mm256_and_ps(spread(mask & 255), b.x)),
            _mm256_add_ps(a.y, _mm256_and_ps(spread(mask >> 8), b.y))};
}
inline Vector where(std::uint16_t mask, Vector a, Vector b) {
    return {_mm256_blendv_ps(b.x, a.x, spread(mask & 255)),
            _mm256_blendv_ps(b.y, a.y, spread(mask >> 8))};
}
inline std::uint16_t reaches(Vector a, Vector b) {
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.x, b.x, _CMP_GE_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.y, b.y, _CMP_GE_OQ));
    return std::uint16_t(low | high << 8);
}
inline Half add_where(Half a, std::uint16_t mask, Half b) {
    return {_mm256_add_ps(a.x, _mm256_and_ps(spread(mask & 255), b.x))};
}

#else

// Four floats, as GCC and clang know them: a register of almost any processor.
using Four = float __attribute__((vector_size(16)));
using FourBits = std::uint32_t __attribute__((vector_size(16)));

template <int N> struct Fours {
    Four x[N];
};
using Vector = Fours<4>;
using Half = Fours<2>;
constexpr int REGISTERS = SPIKEWIRE_REGISTERS(2);

template <class V> inline V loaded(const void* p) {
    V x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
template <int N, class F> inline Fours<N> each(F f) {
    Fours<N> a;
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) a.x[i] = f(i);
    return a;
}
inline Vector all(float x) {
    return each<4>([&](int) { return Four{x, x, x, x}; });
}
inline Half half(float x) {
    return each<2>([&](int) { return Four{x, x, x, x}; });
}
inline Vector load(const float* p) {
    return each<4>([&](int i) { return loaded<Four>(p + 4 * i); });
}
inline Half load_half(const float* p) {
    return each<2>([&](int i) { return loaded<Four>(p + 4 * i); });
}
template <int N> inline void store(float* p, Fours<N> a) { std::memcpy(p, a.x, sizeof a.x); }
inline Vector operator+(Vector a, Vector b) {
    return each<4>([&](int i) { return a.x[i] + b.x[i]; });
}
inline Vector operator-(Vector a, Vector b) {
    return each<4>([&](int i) { return a.x[i] - b.x[i]; });
}
inline Vector operator*(Vector a, Vector b) {
    return each<4>([&](int i) { return a.x[i] * b.x[i]; });
}
inline Vector operator/(Vector a, Vector b) {
    return each<4>([&](int i) { return a.x[i] / b.x[i]; });
}
// All bits or none of the i-th four.
inline FourBits spread(std::uint16_t mask, int i) {
    return loaded<FourBits>(SPREAD.masks[mask >> i / 2 * 8 & 255] + i % 2 * 4);
}
inline Vector where(std::uint16_t mask, Vector a, Vector b) {
    return each<4>([&](int i) {
        return Four((FourBits(a.x[i]) & spread(mask, i)) | (FourBits(b.x[i]) & ~spread(mask, i)));
    });
}
// Adding 0 changes nothing: a sum never is -0.
template <int N> inline Fours<N> add_where(Fours<N> a, std::uint16_t mask, Fours<N> b) {
    return each<N>([&](int i) { return a.x[i] + Four(FourBits(b.x[i]) & spread(mask, i)); });
}
inline std::uint16_t reaches(Vector a, Vector b) {
    unsigned mask = 0;
    for (int i = 0; i < 16; ++i) mask |= unsigned(a.x[i / 4][i % 4] >= b.x[i / 4][i % 4]) << i;
    return std::uint16_t(mask);
}

#endif

}  // namespace spikewire::PATH
