// Sixteen floats, in the way of the processor that the including file is compiled for.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(SPIKEWIRE_AVX512) || defined(SPIKEWIRE_AVX2)
#include <immintrin.h>
#endif

namespace spikewire::PATH {

#if defined(SPIKEWIRE_AVX512)

struct Vector {
    __m512 x;
};
constexpr int REGISTERS = 24;  // sums that are kept at once

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

// Eight floats, for eight time steps of one output.
struct Half {
    __m256 x;
};
inline Half half(float x) { return {_mm256_set1_ps(x)}; }
inline Half load_half(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Half a) { _mm256_storeu_ps(p, a.x); }
inline Half add_where(Half a, std::uint16_t mask, Half b) {
    return {_mm256_mask_add_ps(a.x, __mmask8(mask), a.x, b.x)};
}

#elif defined(SPIKEWIRE_AVX2)

struct Vector {
    __m256 x, y;
};
constexpr int REGISTERS = 5;

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
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(int(byte)), bits);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bits));
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

struct Half {
    __m256 x;
};
inline Half half(float x) { return {_mm256_set1_ps(x)}; }
inline Half load_half(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Half a) { _mm256_storeu_ps(p, a.x); }
inline Half add_where(Half a, std::uint16_t mask, Half b) {
    return {_mm256_add_ps(a.x, _mm256_and_ps(spread(mask & 255), b.x))};
}

#else

template <int N> struct Lanes {
    float x[N];
};
using Vector = Lanes<16>;
using Half = Lanes<8>;
constexpr int REGISTERS = 2;

template <int N, class F> inline Lanes<N> each(F f) {
    Lanes<N> a;
    for (int i = 0; i < N; ++i) a.x[i] = f(i);
    return a;
}
inline Vector all(float x) {
    return each<16>([&](int) { return x; });
}
inline Half half(float x) {
    return each<8>([&](int) { return x; });
}
inline Vector load(const float* p) {
    return each<16>([&](int i) { return p[i]; });
}
inline Half load_half(const float* p) {
    return each<8>([&](int i) { return p[i]; });
}
template <int N> inline void store(float* p, const Lanes<N>& a) { std::memcpy(p, a.x, sizeof a.x); }
inline Vector operator+(const Vector& a, const Vector& b) {
    return each<16>([&](int i) { return a.x[i] + b.x[i]; });
}
inline Vector operator-(const Vector& a, const Vector& b) {
    return each<16>([&](int i) { return a.x[i] - b.x[i]; });
}
inline Vector operator*(const Vector& a, const Vector& b) {
    return each<16>([&](int i) { return a.x[i] * b.x[i]; });
}
inline Vector operator/(const Vector& a, const Vector& b) {
    return each<16>([&](int i) { return a.x[i] / b.x[i]; });
}
inline Vector where(std::uint16_t mask, const Vector& a, const Vector& b) {
    return each<16>([&](int i) { return mask >> i & 1 ? a.x[i] : b.x[i]; });
}
// A number with all its bits or none of them; adding 0 changes nothing, as a sum never is -0.
inline float kept(float x, unsigned bit) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits &= 0u - bit;
    std::memcpy(&x, &bits, sizeof bits);
    return x;
}
template <int N>
inline Lanes<N> add_where(const Lanes<N>& a, std::uint16_t mask, const Lanes<N>& b) {
    return each<N>([&](int i) { return a.x[i] + kept(b.x[i], mask >> i & 1u); });
}
inline std::uint16_t reaches(const Vector& a, const Vector& b) {
    unsigned mask = 0;
    for (int i = 0; i < 16; ++i) mask |= unsigned(a.x[i] >= b.x[i]) << i;
    return std::uint16_t(mask);
}

#endif

}  // namespace spikewire::PATH
