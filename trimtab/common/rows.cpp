// What transformers' layers and a head compute row by row, each in one pass over memory: root-mean-square norms, gated activations,
// rotations, and what logits come to. kernels.py compiles it where it runs; models/rows.py says what goes in and out.
//
// Numbers come in float32 or bf16 and are computed in float32; of a row's logits, sums over more than CHUNK of them are in float64. A row's
// result depends on nothing beside it, and sums over rows are made in PARTS whatever the number of threads.

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "vectors.h"

constexpr long CHUNK = 64 * W;    // columns whose sum stays in float32
constexpr long PARTS = 16;        // of the rows, for sums over all of them
constexpr long SMALL = 1 << 15;   // numbers that one thread is done with before another would have begun

typedef uint16_t Narrow __attribute__((vector_size(W * 2), aligned(2), may_alias));
typedef int32_t Counts __attribute__((vector_size(W * 4)));

static inline Vector load(const uint16_t* from) { return (Vector)(__builtin_convertvector(*(const Narrow*)from, Bits) << 16); }

// Rounded to the nearest, to the even one of two; NaN stays NaN.
static inline void store(uint16_t* to, Vector v) {
    const Bits bits = (Bits)v, rounded = (bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16;
    *(Narrow*)to = __builtin_convertvector(v == v ? rounded : Bits{} + 0x7fc0u, Narrow);
}

// The first n < W numbers of a vector; the others are 0.
template <typename T>
static inline Vector load_some(const T* from, long n) {
    T whole[W] = {};
    std::memcpy(whole, from, n * sizeof(T));
    return load(whole);
}

template <typename T>
static inline void store_some(T* to, long n, Vector v) {
    T whole[W];
    store(whole, v);
    std::memcpy(to, whole, n * sizeof(T));
}

// The vector at d, of which n numbers are there.
template <typename T>
static inline Vector take(const T* from, long d, long n) { return n == W ? load(from + d) : load_some(from + d, n); }

template <typename T>
static inline void put(T* to, long d, long n, Vector v) { n == W ? store(to + d, v) : store_some(to + d, n, v); }

// ``work(d, n)`` for the vectors of numbers begin .. end: where they start, and how many numbers are there, W but in the last one.
template <typename Work>
static inline __attribute__((always_inline)) void each(long begin, long end, Work work) {
    long d = begin;
    for (; d + W <= end; d += W) work(d, W);
    if (d < end) work(d, end - d);
}

static inline Vector sigmoid(Vector x) { return x < -88.0f ? Vector{} : 1.0f / (1.0f + exponential(-x)); }

// A gate is g sigmoid(a(g)); ``bend`` is a(g), and a'(g) where it is asked for. SiLU: a = g. GELU by its tanh: a = 2 sqrt(2 / pi) (g + c g^3).
template <bool GELU>
static inline Vector bend(Vector g, Vector* slope = nullptr) {
    constexpr float K = 1.5957691216f, C = 0.044715f;
    if (slope) *slope = GELU ? K * (1.0f + 3 * C * g * g) : all(1.0f);
    return GELU ? K * (g + C * g * g * g) : g;
}

// ``each`` by many threads.
template <typename Work>
static void each_piece(long count, long threads, Work work) {
#pragma omp parallel for num_threads(threads) if (count > SMALL)
    for (long begin = 0; begin < count; begin += CHUNK) each(begin, std::min(begin + CHUNK, count), work);
}

template <bool GELU, typename T>
static void gate(const T* g, const T* u, T* out, long count, long threads) {
    each_piece(count, threads, [&](long d, long n) {
        const Vector x = take(g, d, n);
        put(out, d, n, x * sigmoid(bend<GELU>(x)) * take(u, d, n));
    });
}

template <bool GELU, typename T>
static void gate_backward(const T* g, const T* u, const T* grad, T* dg, T* du, long count, long threads) {
    each_piece(count, threads, [&](long d, long n) {
        const Vector x = take(g, d, n), slope = take(grad, d, n);
        Vector steep;
        const Vector s = sigmoid(bend<GELU>(x, &steep));
        put(du, d, n, slope * x * s);
        put(dg, d, n, slope * take(u, d, n) * s * (1.0f + x * (1.0f - s) * steep));
    });
}

// Columns of a row of logits but the target's own, a chunk at a time: ``work(logits, first column, how many)`` in vectors.
template <typename T, typename Work, typename Done>
static inline void each_logit(const T* raw, const float* bias, float scale, long vocabulary, long target, Work work, Done done) {
    for (long begin = 0; begin < vocabulary;) {
        const long end = std::min(begin < target ? target : vocabulary, begin + CHUNK);
        if (begin == target) {
            begin++;
            continue;
        }
        each(begin, end, [&](long j, long n) {
            Vector v = take(raw, j, n);
            if (bias) v += take(bias, j, n);
            v *= scale;
            for (long i = n; i < W; i++) v[i] = NEVER;
            work(v, j, n);
        });
        done();
        begin = end;
    }
}

// A weight times its logarithm; 0 for what cannot come.
static inline Vector weighted(Vector weight, Vector log_weight) { return weight * (log_weight < -87.0f ? Vector{} : log_weight); }

template <typename T>
static void statistics(
    const T* raw, const float* bias, const int64_t* targets, const float* exact, long rows, long vocabulary, float scale, float* lse,
    float* entropy, int64_t* ranks, long threads
) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        const T* const logits = raw + row * vocabulary;
        const float own = exact[row];
        Vector tops = all(own);
        Counts above{};
        const auto nothing = [] {};
        each_logit(logits, bias, scale, vocabulary, targets[row], [&](Vector v, long, long) {
            tops = v > tops ? v : tops;
            above -= v > own;  // true is -1
        }, nothing);
        float top = own;
        long rank = 0;
        for (long i = 0; i < W; i++) top = std::max(top, tops[i]), rank += above[i];

        double total = std::exp(own - top), sum_of_logs = own - top < -87 ? 0 : total * (own - top);
        Vector some{}, some_of_logs{};
        each_logit(logits, bias, scale, vocabulary, targets[row], [&](Vector v, long, long) {
            const Vector log_weight = v - top, weight = exponential(log_weight);
            some += weight;
            some_of_logs += weighted(weight, log_weight);
        }, [&] {
            total += sum(some), sum_of_logs += sum(some_of_logs);
            some = some_of_logs = Vector{};
        });
        lse[row] = top + std::log(total);
        entropy[row] = std::log(total) - sum_of_logs / total;
        ranks[row] = rank;
    }
}

template <typename T>
static void shares(const T* raw, long rows, long vocabulary, float scale, float* out, long threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        const T* const logits = raw + row * vocabulary;
        float* const to = out + row * vocabulary;
        Vector tops = all(NEVER), some{};
        each_logit(logits, nullptr, scale, vocabulary, vocabulary, [&](Vector v, long, long) { tops = v > tops ? v : tops; }, [] {});
        float top = NEVER;
        for (long i = 0; i < W; i++) top = std::max(top, tops[i]);
        double total = 0;
        each_logit(logits, nullptr, scale, vocabulary, vocabulary, [&](Vector v, long j, long n) {
            const Vector weight = exponential(v - top);
            put(to, j, n, weight);
            some += weight;
        }, [&] {
            total += sum(some);
            some = Vector{};
        });
        const float share = 1 / total;
        each(0, vocabulary, [&](long j, long n) { put(to, j, n, take(to, j, n) * share); });
    }
}

// ``out`` may be ``raw``.
template <typename T, typename Out>
static void slopes(
    const T* raw, const float* bias, const int64_t* targets, const float* exact, const float* lse, const float* entropy, const float* d_logprobs,
    const float* d_entropy, long rows, long vocabulary, float scale, Out* out, long threads
) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        Out* const to = out + row * vocabulary;
        const float up = d_logprobs ? d_logprobs[row] : 0, spread = d_entropy ? d_entropy[row] : 0, total = lse[row], mean = entropy[row];
        const auto slope = [&](Vector log_p) {
            const Vector p = exponential(log_p);
            Vector found = -up * p;
            if (spread != 0) found -= spread * (weighted(p, log_p) + p * mean);
            return found * scale;
        };
        each_logit(raw + row * vocabulary, bias, scale, vocabulary, targets[row], [&](Vector v, long j, long n) {
            put(to, j, n, slope(v - total));
        }, [] {});
        store_some(to + targets[row], 1, slope(all(exact[row] - total)) + up * scale);
    }
}

// Heads x (tokens, heads, size) in any strides, of halves x1 and x2 -> ``out`` in one piece: x1 cos1 - x2 sin1 and x2 cos2 + x1 sin2; or,
// ``back``, slopes by these -> slopes by x1 and x2: d1 cos1 + d2 sin2 and d2 cos2 - d1 sin1.
template <typename T, typename Out>
static void rotate(
    const T* x, const int64_t* strides, long heads, Out* out, const float* cos, const float* sin, long tokens, long size, long back, long threads
) {
    const long half = size / 2;
#pragma omp parallel for num_threads(threads) if (tokens * heads * size > SMALL)
    for (long t = 0; t < tokens; t++) {
        const float *const c = cos + t * size, *const s = sin + t * size;
        for (long h = 0; h < heads; h++) {
            const T* const from = x + t * strides[0] + h * strides[1];
            Out* const to = out + (t * heads + h) * size;
            each(0, half, [&](long d, long n) {
                const Vector x1 = take(from, d, n), x2 = take(from + half, d, n), sin1 = take(s, d, n), sin2 = take(s + half, d, n);
                put(to, d, n, x1 * take(c, d, n) + x2 * (back ? sin2 : -sin1));
                put(to + half, d, n, x2 * take(c + half, d, n) + x1 * (back ? -sin1 : sin2));
            });
        }
    }
}

extern "C" {

// Queries and keys in float32, or bf16 where ``narrow``, to float32; ``back``: slopes in float32 to slopes in the former.
void trimtab_rotate(
    const void* q, const int64_t* q_strides, long heads, void* q_out, const void* k, const int64_t* k_strides, long groups, void* k_out,
    const float* cos, const float* sin, long tokens, long size, long back, long narrow, long threads
) {
    const auto run = [&](auto* of, auto* to) {
        typedef decltype(of) From;
        typedef decltype(to) To;
        rotate((From)q, q_strides, heads, (To)q_out, cos, sin, tokens, size, back, threads);
        rotate((From)k, k_strides, groups, (To)k_out, cos, sin, tokens, size, back, threads);
    };
    if (!narrow) run((const float*)q, (float*)q_out);
    if (narrow && !back) run((const uint16_t*)q, (float*)q_out);
    if (narrow && back) run((const float*)q, (uint16_t*)q_out);
}

// y = x / sqrt(mean x^2 + eps) * (offset + weight); ``inverse`` (rows) is what each row was multiplied with.
void trimtab_norm(const float* x, const float* weight, long rows, long size, float eps, float offset, float* out, float* inverse, long threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > SMALL)
    for (long row = 0; row < rows; row++) {
        const float* const from = x + row * size;
        Vector squares{};
        each(0, size, [&](long d, long n) { squares += take(from, d, n) * take(from, d, n); });
        const float factor = inverse[row] = 1 / std::sqrt(sum(squares) / size + eps);
        each(0, size, [&](long d, long n) { put(out + row * size, d, n, take(from, d, n) * factor * (offset + take(weight, d, n))); });
    }
}

// ``d_weight`` may be none.
void trimtab_norm_backward(
    const float* x, const float* weight, const float* inverse, const float* grad, long rows, long size, float offset, float* dx, float* d_weight,
    long threads
) {
    std::vector<float> parts(d_weight ? PARTS * size : 0);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (rows * size > SMALL)
    for (long part = 0; part < PARTS; part++) {
        float* const sums = d_weight ? parts.data() + part * size : nullptr;
        for (long row = part * rows / PARTS; row < (part + 1) * rows / PARTS; row++) {
            const float *const from = x + row * size, *const slope = grad + row * size, factor = inverse[row];
            Vector products{};
            each(0, size, [&](long d, long n) { products += take(from, d, n) * take(slope, d, n) * (offset + take(weight, d, n)); });
            const float along = sum(products) * factor * factor / size;
            each(0, size, [&](long d, long n) {
                const Vector v = take(from, d, n), g = take(slope, d, n);
                put(dx + row * size, d, n, factor * (g * (offset + take(weight, d, n)) - v * along));
                if (d_weight) put(sums, d, n, take(sums, d, n) + g * v * factor);
            });
        }
    }
    for (long d = 0; d_weight && d < size; d++) {
        float total = 0;
        for (long part = 0; part < PARTS; part++) total += parts[part * size + d];
        d_weight[d] = total;
    }
}

// ``gelu`` 0: SiLU. ``narrow`` 1: the tensors are bf16.
void trimtab_gate(const void* g, const void* u, void* out, long count, long gelu, long narrow, long threads) {
    const auto run = [&](auto* to) {
        typedef std::remove_reference_t<decltype(*to)> T;
        gelu ? gate<true>((const T*)g, (const T*)u, to, count, threads) : gate<false>((const T*)g, (const T*)u, to, count, threads);
    };
    narrow ? run((uint16_t*)out) : run((float*)out);
}

void trimtab_gate_backward(
    const void* g, const void* u, const void* grad, void* dg, void* du, long count, long gelu, long narrow, long threads
) {
    const auto run = [&](auto* to) {
        typedef std::remove_reference_t<decltype(*to)> T;
        const T *const gates = (const T*)g, *const others = (const T*)u, *const above = (const T*)grad;
        gelu ? gate_backward<true>(gates, others, above, to, (T*)du, count, threads)
             : gate_backward<false>(gates, others, above, to, (T*)du, count, threads);
    };
    narrow ? run((uint16_t*)dg) : run((float*)dg);
}

void trimtab_statistics(
    const void* raw, const float* bias, const int64_t* targets, const float* exact, long rows, long vocabulary, float scale, float* lse,
    float* entropy, int64_t* ranks, long narrow, long threads
) {
    const auto run = [&](auto* of) { statistics(of, bias, targets, exact, rows, vocabulary, scale, lse, entropy, ranks, threads); };
    narrow ? run((const uint16_t*)raw) : run((const float*)raw);
}

void trimtab_shares(const void* raw, long rows, long vocabulary, float scale, float* out, long narrow, long threads) {
    narrow ? shares((const uint16_t*)raw, rows, vocabulary, scale, out, threads) : shares((const float*)raw, rows, vocabulary, scale, out, threads);
}

void trimtab_slopes(
    const void* raw, const float* bias, const int64_t* targets, const float* exact, const float* lse, const float* entropy,
    const float* d_logprobs, const float* d_entropy, long rows, long vocabulary, float scale, void* out, long narrow, long narrow_out, long threads
) {
    const auto run = [&](auto* of, auto* to) {
        slopes(of, bias, targets, exact, lse, entropy, d_logprobs, d_entropy, rows, vocabulary, scale, to, threads);
    };
    if (narrow && narrow_out) run((const uint16_t*)raw, (uint16_t*)out);
    if (narrow && !narrow_out) run((const uint16_t*)raw, (float*)out);
    if (!narrow && narrow_out) run((const float*)raw, (uint16_t*)out);
    if (!narrow && !narrow_out) run((const float*)raw, (float*)out);
}

}  // extern "C"
