// Vectors of float32 as wide as the processor's, for attention.cpp and rows.cpp.

#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>

#if defined(WIDTH)
constexpr long W = WIDTH;  // a test's: vectors of another processor's width, in as many instructions as it takes
#elif defined(__AVX512F__)
constexpr long W = 16;
#elif defined(__AVX__)
constexpr long W = 8;
#else
constexpr long W = 4;
#endif

typedef float Vector __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(W * 4)));

constexpr float NEVER = -std::numeric_limits<float>::infinity();

static inline Vector load(const float* from) { return *(const Vector*)from; }
static inline void store(float* to, Vector v) { *(Vector*)to = v; }
static inline Vector all(float x) { return x - Vector{}; }
static inline long up(long n) { return (n + W - 1) / W * W; }

static inline float sum(Vector v) {
    typedef float Four __attribute__((vector_size(16)));
    Four parts[W / 4], total;
    std::memcpy(parts, &v, sizeof parts);
    total = parts[0];
    for (long i = 1; i < W / 4; i++) total += parts[i];
    return (total[0] + total[2]) + (total[1] + total[3]);
}

// e^x to two units in the last place; 0 below -87; NaN stays NaN; not for x above 88. x = n ln 2 + r, and e^r is its Taylor series.
static inline Vector exponential(Vector x) {
    const Vector magic = all(12582912.0f);  // 1.5 * 2^23: added, it leaves the rounded number in the low bits
    Vector shifted = x * 1.44269504f + magic, n = shifted - magic;
    Vector r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    Vector p = all(1.0f / 5040);
    for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + c;
    Bits raised = (Bits)p + ((Bits)shifted << 23);
    return x < -87.0f ? Vector{} : x == x ? (Vector)raised : x;
}
