// Attention on CPUs: trees, forward and backward, and one decoding step. kernels.py compiles it where it runs; models/cpu.py and
// sampling/cpu.py say what goes in and out.
//
// Everything is float32. A head of a tree is one piece of work, so threads share nothing and a result depends neither on how many there
// are nor on the trees beside it. Rows of queries go in blocks against all keys that they may see, so the softmax is the plain one, not a
// running one; the scores of a block fit the second cache up to some thousand keys. The backward pass computes the weights again from the
// log-sum-exps (Dao et al. 2022, FlashAttention, algorithm 4). Memory that cannot be had ends the process.

#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

constexpr long LINE = 16;  // floats
constexpr long ROWS = 24;  // of queries in a block
constexpr long AHEAD = 16;  // keys between the one that is fetched and the one that is multiplied
constexpr long FEW = W < 16 ? 2 : 8;  // rows for which columns of B go by four vectors at once, not by two

static inline float dot(const float* a, const float* b, long n) {
    Vector sums{};
    long d = 0;
    for (; d + W <= n; d += W) sums += load(a + d) * load(b + d);
    float rest = 0;
    for (; d < n; d++) rest += a[d] * b[d];
    return sum(sums) + rest;
}

// Scores (H rows, ``ld`` apart) of queries (H, size), ``ldq`` apart, with K keys (K, size).
template <int H, int K>
static inline void scores_at(const float* q, long ldq, const float* keys, long size, float* to, long ld) {
    Vector sums[H][K];
    for (int h = 0; h < H; h++)
        for (int j = 0; j < K; j++) sums[h][j] = Vector{};
    long d = 0;
    for (; d + W <= size; d += W) {
        Vector key[K];
        for (int j = 0; j < K; j++) key[j] = load(keys + j * size + d);
        for (int h = 0; h < H; h++) {
            const Vector x = load(q + h * ldq + d);
            for (int j = 0; j < K; j++) sums[h][j] += x * key[j];
        }
    }
    for (int h = 0; h < H; h++)
        for (int j = 0; j < K; j++) {
            float rest = 0;
            for (long e = d; e < size; e++) rest += q[h * ldq + e] * keys[j * size + e];
            to[h * ld + j] = sum(sums[h][j]) + rest;
        }
}

// Asks the memory for numbers that are needed soon: what is kept of samples lies behind a new page of memory every few kilobytes. With
// vectors of 16 a step takes a third less time, with vectors of 8 it took more.
static inline void fetch(const float* from, long count) {
    for (long d = 0; W == 16 && d < count; d += LINE) __builtin_prefetch(from + d);
}

template <int H>
static inline void scores_for(const float* q, long ldq, const float* keys, long count, long size, float* to, long ld) {
    long j = 0;
    for (; j + 4 <= count; j += 4) {
        fetch(keys + (j + AHEAD) * size, 4 * size);
        scores_at<H, 4>(q, ldq, keys + j * size, size, to + j, ld);
    }
    for (; j < count; j++) scores_at<H, 1>(q, ldq, keys + j * size, size, to + j, ld);
}

static void scores_with(long heads, const float* q, long ldq, const float* keys, long count, long size, float* to, long ld) {
    for (; heads >= 3; heads -= 3, q += 3 * ldq, to += 3 * ld) scores_for<3>(q, ldq, keys, count, size, to, ld);
    if (heads == 2) scores_for<2>(q, ldq, keys, count, size, to, ld);
    if (heads == 1) scores_for<1>(q, ldq, keys, count, size, to, ld);
}

// C (m, n) = A B, or += where ``add``; A (m, k) with any strides, B (k, n), n a multiple of W.
template <int M, int N>
static inline void tile(long k, const float* a, long ai, long ak, const float* b, long ldb, float* c, long ldc, bool add) {
    Vector sums[M][N];
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) sums[i][j] = add ? load(c + i * ldc + j * W) : Vector{};
    for (long p = 0; p < k; p++) {
        Vector row[N];
        for (int j = 0; j < N; j++) row[j] = load(b + p * ldb + j * W);
        for (int i = 0; i < M; i++) {
            const float x = a[i * ai + p * ak];
            for (int j = 0; j < N; j++) sums[i][j] += x * row[j];
        }
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) store(c + i * ldc + j * W, sums[i][j]);
}

// Few enough columns of B to stay in the cache while all rows of A pass.
template <int N>
static inline void panel(long m, long k, const float* a, long ai, long ak, const float* b, long ldb, float* c, long ldc, bool add) {
    for (; m >= 6; m -= 6, a += 6 * ai, c += 6 * ldc) tile<6, N>(k, a, ai, ak, b, ldb, c, ldc, add);
    switch (m) {
        case 5: return tile<5, N>(k, a, ai, ak, b, ldb, c, ldc, add);
        case 4: return tile<4, N>(k, a, ai, ak, b, ldb, c, ldc, add);
        case 3: return tile<3, N>(k, a, ai, ak, b, ldb, c, ldc, add);
        case 2: return tile<2, N>(k, a, ai, ak, b, ldb, c, ldc, add);
        case 1: return tile<1, N>(k, a, ai, ak, b, ldb, c, ldc, add);
    }
}

static void multiply(long m, long n, long k, const float* a, long ai, long ak, const float* b, long ldb, float* c, long ldc, bool add) {
    long j = 0;
    for (; m <= FEW && j + 4 * W <= n; j += 4 * W) panel<4>(m, k, a, ai, ak, b + j, ldb, c + j, ldc, add);
    for (; j + 2 * W <= n; j += 2 * W) panel<2>(m, k, a, ai, ak, b + j, ldb, c + j, ldc, add);
    if (j < n) panel<1>(m, k, a, ai, ak, b + j, ldb, c + j, ldc, add);
}

// Memory that a thread keeps between calls, in whole cache lines.
struct Scratch {
    std::vector<float> kept;
    float* next = nullptr;
    void want(size_t count, size_t parts) {
        const size_t needed = count + (parts + 1) * LINE;
        if (kept.size() < needed) kept.resize(needed);
        next = kept.data();
    }
    float* take(size_t count) {
        float* found = (float*)(((uintptr_t)next + LINE * 4 - 1) / (LINE * 4) * (LINE * 4));
        next = found + count;
        return found;
    }
};
static thread_local Scratch scratch, packed;

// Rows of a tensor (T, heads, size) whose last dimension is contiguous.
struct Rows {
    const float* data;
    long token, head;  // strides
    const float* at(long t, long h) const { return data + t * token + h * head; }
};

struct Rule {
    float scale, cap;  // cap 0: none
    long window;       // 0: none
};

struct Shape {
    long heads, groups, size, value;
};

// A tree in the flat batch: a prompt and then its completions.
struct Tree {
    long start, prompt, count, tokens;
    const int64_t* completions;
    size_t place;  // of its packed keys and values
    long wide() const { return up(tokens) + 2 * W; }
};

// ``spans``: for each tree its start, its prompt's length, how many completions, and their lengths.
static std::vector<Tree> trees_of(const int64_t* spans, long count, const Shape& s, bool backward, size_t& packed_size) {
    std::vector<Tree> trees;
    packed_size = 0;
    for (long i = 0; i < count; i++) {
        Tree t{spans[0], spans[1], spans[2], spans[1], spans + 3, packed_size};
        for (long c = 0; c < t.count; c++) t.tokens += t.completions[c];
        spans += 3 + t.count;
        packed_size += s.groups * (t.wide() * (s.size + (backward ? s.value : 0)) + t.tokens * (up(s.value) * !backward + up(s.size) * backward));
        trees.push_back(t);
    }
    return trees;
}

// What a block of queries sees: keys [a, a + na) of the prompt and [b, b + nb) of its own segment, in tokens of the tree.
struct Block {
    long first, rows;            // tokens of the tree
    long a, na, b, nb;
    long before;                 // tokens before the segment on its branch
    long segment;                // where it starts
    long wide_a() const { return up(na); }
    long wide() const { return up(na) + up(nb); }
};

template <typename Work>
static void each_block(const Tree& t, long window, Work work) {
    long start = 0;
    for (long c = -1; c < t.count; c++) {
        const long length = c < 0 ? t.prompt : t.completions[c], before = c < 0 ? 0 : t.prompt;
        for (long i = 0; i < length; i += ROWS) {
            Block k{};
            k.first = start + i, k.rows = std::min(ROWS, length - i), k.before = before, k.segment = start;
            const long lowest = window ? std::max(0L, before + i - window + 1) : 0;
            k.a = std::min(lowest, before), k.na = before - k.a;
            const long own = std::max(0L, lowest - before);
            k.b = start + own, k.nb = i + k.rows - own;
            work(k);
        }
        start += length;
    }
}

static void transpose(const Rows& from, long start, long head, long tokens, long size, float* to, long wide) {
    for (long d = 0; d < size; d++) {
        for (long t = 0; t < tokens; t++) to[d * wide + t] = from.at(start + t, head)[d];
        std::memset(to + d * wide + tokens, 0, (wide - tokens) * sizeof(float));
    }
}

static void widen(const Rows& from, long start, long head, long tokens, long size, float* to) {
    for (long t = 0; t < tokens; t++) {
        std::memcpy(to + t * up(size), from.at(start + t, head), size * sizeof(float));
        std::memset(to + t * up(size) + size, 0, (up(size) - size) * sizeof(float));
    }
}

// Scores of a block, scaled and capped, -infinity where a row may not look; ``slopes``, if any, get d capped score / d score.
static void scores_of(const Block& k, const Rule& rule, const float* q, long ldq, long size, const float* keys, long wide, float* s, float* slopes) {
    const long ld = k.wide();
    multiply(k.rows, k.wide_a(), size, q, ldq, 1, keys + k.a, wide, s, ld, false);
    multiply(k.rows, up(k.nb), size, q, ldq, 1, keys + k.b, wide, s + k.wide_a(), ld, false);
    for (long i = 0; i < k.rows; i++) {
        float* row = s + i * ld;
        for (long j = 0; j < ld; j += W) store(row + j, load(row + j) * rule.scale);
        if (rule.cap)
            for (long j = 0; j < ld; j++) {
                const float bent = std::tanh(row[j] / rule.cap);
                row[j] = rule.cap * bent;
                if (slopes) slopes[i * ld + j] = 1 - bent * bent;
            }
        const long token = k.first + i, position = k.before + token - k.segment;
        const long lowest = rule.window ? std::max(0L, position - rule.window + 1) : 0;
        float* own = row + k.wide_a();
        for (long j = 0; j < std::min(k.na, lowest - k.a); j++) row[j] = NEVER;
        for (long j = k.na; j < k.wide_a(); j++) row[j] = NEVER;
        for (long j = 0; j < lowest - k.before - (k.b - k.segment); j++) own[j] = NEVER;
        for (long j = token - k.b + 1; j < up(k.nb); j++) own[j] = NEVER;
    }
}

// Scores (n, a multiple of W) to e^(score - highest), the sink among them. Returns their sum.
static float soften(float* row, long n, const float* sink, float& highest) {
    Vector top = all(NEVER), total{};
    for (long j = 0; j < n; j += W) {
        const Vector v = load(row + j);
        top = v > top ? v : top;
    }
    highest = sink ? *sink : NEVER;
    for (long j = 0; j < W; j++) highest = top[j] > highest ? top[j] : highest;
    for (long j = 0; j < n; j += W) {
        const Vector v = exponential(load(row + j) - highest);
        store(row + j, v);
        total += v;
    }
    return sum(total) + (sink ? std::exp(*sink - highest) : 0);
}

extern "C" {

void trimtab_trees(
    const int64_t* spans, long count, const int64_t* shape, const float* q, const int64_t* q_strides, const float* k, const int64_t* k_strides,
    const float* v, const int64_t* v_strides, float scale, float cap, long window, const float* sinks, float* out, float* lse, long threads
) {
    const Shape s{shape[0], shape[1], shape[2], shape[3]};
    const Rows query{q, q_strides[0], q_strides[1]}, key{k, k_strides[0], k_strides[1]}, value{v, v_strides[0], v_strides[1]};
    const Rule rule{scale, cap, window};
    size_t size;
    const std::vector<Tree> trees = trees_of(spans, count, s, false, size);
    packed.want(size, 1);
    float* const pack = packed.take(size);
    const long share = s.heads / s.groups, wide_value = up(s.value);
    const auto keys_of = [&](const Tree& t, long g) { return pack + t.place + g * (t.wide() * s.size + t.tokens * wide_value); };

#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic)
        for (long unit = 0; unit < count * s.groups; unit++) {
            const Tree& t = trees[unit / s.groups];
            const long g = unit % s.groups;
            float* keys = keys_of(t, g);
            transpose(key, t.start, g, t.tokens, s.size, keys, t.wide());
            widen(value, t.start, g, t.tokens, s.value, keys + t.wide() * s.size);
        }
#pragma omp for schedule(dynamic)
        for (long unit = 0; unit < count * s.heads; unit++) {
            const Tree& t = trees[unit / s.heads];
            const long h = unit % s.heads;
            const float *keys = keys_of(t, h / share), *values = keys + t.wide() * s.size;
            scratch.want(ROWS * (t.wide() + 2 * W + wide_value), 2);
            float *weights = scratch.take(ROWS * (t.wide() + 2 * W)), *sums = scratch.take(ROWS * wide_value);
            each_block(t, window, [&](const Block& b) {
                const long ld = b.wide();
                scores_of(b, rule, query.at(t.start + b.first, h), query.token, s.size, keys, t.wide(), weights, nullptr);
                float totals[ROWS];
                for (long i = 0; i < b.rows; i++) {
                    float highest;
                    totals[i] = soften(weights + i * ld, ld, sinks ? sinks + h : nullptr, highest);
                    lse[(t.start + b.first + i) * s.heads + h] = highest + std::log(totals[i]);
                }
                multiply(b.rows, wide_value, b.na, weights, ld, 1, values + b.a * wide_value, wide_value, sums, wide_value, false);
                multiply(b.rows, wide_value, b.nb, weights + b.wide_a(), ld, 1, values + b.b * wide_value, wide_value, sums, wide_value, true);
                for (long i = 0; i < b.rows; i++) {
                    float* to = out + ((t.start + b.first + i) * s.heads + h) * s.value;
                    for (long d = 0; d < s.value; d++) to[d] = sums[i * wide_value + d] / totals[i];
                }
            });
        }
    }
}

void trimtab_trees_backward(
    const int64_t* spans, long count, const int64_t* shape, const float* q, const int64_t* q_strides, const float* k, const int64_t* k_strides,
    const float* v, const int64_t* v_strides, float scale, float cap, long window, const float* out, const float* lse, const float* grad,
    const int64_t* grad_strides, float* dq, float* dk, float* dv, long threads
) {
    const Shape s{shape[0], shape[1], shape[2], shape[3]};
    const Rows query{q, q_strides[0], q_strides[1]}, key{k, k_strides[0], k_strides[1]}, value{v, v_strides[0], v_strides[1]};
    const Rows slope{grad, grad_strides[0], grad_strides[1]};
    const Rule rule{scale, cap, window};
    size_t size;
    const std::vector<Tree> trees = trees_of(spans, count, s, true, size);
    packed.want(size, 1);
    float* const pack = packed.take(size);
    const long share = s.heads / s.groups, wide_size = up(s.size), wide_value = up(s.value);
    const auto keys_of = [&](const Tree& t, long g) { return pack + t.place + g * (t.wide() * (s.size + s.value) + t.tokens * wide_size); };

#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic)
        for (long unit = 0; unit < count * s.groups; unit++) {
            const Tree& t = trees[unit / s.groups];
            const long g = unit % s.groups;
            float *keys = keys_of(t, g), *values = keys + t.wide() * s.size;
            transpose(key, t.start, g, t.tokens, s.size, keys, t.wide());
            transpose(value, t.start, g, t.tokens, s.value, values, t.wide());
            widen(key, t.start, g, t.tokens, s.size, values + t.wide() * s.value);
        }
#pragma omp for schedule(dynamic)
        for (long unit = 0; unit < count * s.heads; unit++) {
            const Tree& t = trees[unit / s.heads];
            const long h = unit % s.heads, most = ROWS * (t.wide() + 2 * W);
            const float *keys = keys_of(t, h / share), *values = keys + t.wide() * s.size, *key_rows = values + t.wide() * s.value;
            scratch.want(3 * most + ROWS * (2 * wide_size + wide_value) + t.tokens * (wide_size + wide_value), 8);
            float *weights = scratch.take(most), *slopes = scratch.take(most), *bends = scratch.take(most);
            float *queries = scratch.take(ROWS * wide_size), *gradients = scratch.take(ROWS * wide_value), *d_query = scratch.take(ROWS * wide_size);
            float *d_keys = scratch.take(t.tokens * wide_size), *d_values = scratch.take(t.tokens * wide_value);
            std::memset(d_keys, 0, t.tokens * wide_size * sizeof(float));
            std::memset(d_values, 0, t.tokens * wide_value * sizeof(float));
            each_block(t, window, [&](const Block& b) {
                const long ld = b.wide(), wa = b.wide_a(), token = t.start + b.first;
                widen(query, token, h, b.rows, s.size, queries);
                widen(slope, token, h, b.rows, s.value, gradients);
                scores_of(b, rule, queries, wide_size, s.size, keys, t.wide(), weights, bends);
                multiply(b.rows, wa, s.value, gradients, wide_value, 1, values + b.a, t.wide(), slopes, ld, false);
                multiply(b.rows, up(b.nb), s.value, gradients, wide_value, 1, values + b.b, t.wide(), slopes + wa, ld, false);
                for (long i = 0; i < b.rows; i++) {
                    const float *result = out + ((token + i) * s.heads + h) * s.value, total = lse[(token + i) * s.heads + h];
                    const float delta = dot(result, gradients + i * wide_value, s.value);
                    for (long j = i * ld; j < (i + 1) * ld; j += W) {
                        const Vector p = exponential(load(weights + j) - total);
                        Vector ds = p * (load(slopes + j) - delta) * rule.scale;
                        if (rule.cap) ds *= load(bends + j);
                        store(weights + j, p);
                        store(slopes + j, ds);
                    }
                }
                multiply(b.rows, wide_size, b.na, slopes, ld, 1, key_rows + b.a * wide_size, wide_size, d_query, wide_size, false);
                multiply(b.rows, wide_size, b.nb, slopes + wa, ld, 1, key_rows + b.b * wide_size, wide_size, d_query, wide_size, true);
                multiply(b.na, wide_size, b.rows, slopes, 1, ld, queries, wide_size, d_keys + b.a * wide_size, wide_size, true);
                multiply(b.nb, wide_size, b.rows, slopes + wa, 1, ld, queries, wide_size, d_keys + b.b * wide_size, wide_size, true);
                multiply(b.na, wide_value, b.rows, weights, 1, ld, gradients, wide_value, d_values + b.a * wide_value, wide_value, true);
                multiply(b.nb, wide_value, b.rows, weights + wa, 1, ld, gradients, wide_value, d_values + b.b * wide_value, wide_value, true);
                for (long i = 0; i < b.rows; i++)
                    std::memcpy(dq + ((token + i) * s.heads + h) * s.size, d_query + i * wide_size, s.size * sizeof(float));
            });
            for (long i = 0; i < t.tokens; i++) {
                std::memcpy(dk + ((t.start + i) * s.heads + h) * s.size, d_keys + i * wide_size, s.size * sizeof(float));
                std::memcpy(dv + ((t.start + i) * s.heads + h) * s.value, d_values + i * wide_value, s.value * sizeof(float));
            }
        }
    }
}

// ``prompt_keys`` (P, G, page, D) and values; ``own_keys`` (rows, blocks, G, block, D) and values, into which the new ones are written first.
void trimtab_step(
    long rows, const int64_t* shape, const float* q, const int64_t* q_strides, const float* k, const int64_t* k_strides, const float* v,
    const int64_t* v_strides, const float* prompt_keys, const float* prompt_values, const int64_t* pages, long most, long page, float* own_keys,
    float* own_values, long blocks, long block, const int64_t* prefix, const int64_t* columns, float scale, float cap, long window,
    const float* sinks, float* out, long threads
) {
    const Shape s{shape[0], shape[1], shape[2], shape[3]};
    const Rows query{q, q_strides[0], q_strides[1]}, key{k, k_strides[0], k_strides[1]}, value{v, v_strides[0], v_strides[1]};
    const long share = s.heads / s.groups, even = s.value / W * W;

#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
    for (long unit = 0; unit < rows * s.groups; unit++) {
        const long row = unit / s.groups, g = unit % s.groups;
        const long known = std::min<long>(prefix[row], most * page), position = known + columns[row];  // an idle row may have no pages
        const long lowest = window ? std::max(0L, position - window + 1) : 0, seen = position + 1 - lowest, ld = up(seen);
        const auto own = [&](float* kept, long b, long size) { return kept + ((row * blocks + b) * s.groups + g) * block * size; };
        const long at = columns[row] / block, column = columns[row] % block;
        std::memcpy(own(own_keys, at, s.size) + column * s.size, key.at(row, g), s.size * sizeof(float));
        std::memcpy(own(own_values, at, s.value) + column * s.value, value.at(row, g), s.value * sizeof(float));

        // Pieces of keys that lie side by side: pages of the prompt, then the row's own blocks.
        const auto each_piece = [&](auto work) {
            for (long p = lowest; p <= position;) {
                const bool prompt = p < known;
                const long mine = p - known, size = prompt ? page : block, from = (prompt ? p : mine) % size;
                const long count = std::min({size - from, (prompt ? known : position + 1) - p});
                if (prompt) {
                    const long place = (pages[row * most + p / page] * s.groups + g) * page + from;
                    work(p - lowest, count, prompt_keys + place * s.size, prompt_values + place * s.value);
                } else {
                    work(p - lowest, count, own(own_keys, mine / block, s.size) + from * s.size, own(own_values, mine / block, s.value) + from * s.value);
                }
                p += count;
            }
        };
        scratch.want(share * (ld + 1), 2);
        float *weights = scratch.take(share * ld), *totals = scratch.take(share);
        each_piece([&](long first, long count, const float* keys, const float* values) {
            fetch(values, count * s.value);
            scores_with(share, query.at(row, g * share), query.head, keys, count, s.size, weights + first, ld);
        });
        for (long h = 0; h < share; h++) {
            float highest;
            float* row_of = weights + h * ld;
            for (long j = 0; j < ld; j += W) store(row_of + j, load(row_of + j) * scale);
            for (long j = 0; cap && j < seen; j++) row_of[j] = cap * std::tanh(row_of[j] / cap);
            for (long j = seen; j < ld; j++) row_of[j] = NEVER;
            totals[h] = soften(row_of, ld, sinks ? sinks + g * share + h : nullptr, highest);
        }
        float* sums = out + (row * s.heads + g * share) * s.value;
        each_piece([&](long first, long count, const float*, const float* values) {
            multiply(share, even, count, weights + first, ld, 1, values, s.value, sums, s.value, first > 0);
            for (long h = 0; h < share; h++)
                for (long d = even; d < s.value; d++) {
                    float total = first ? sums[h * s.value + d] : 0;
                    for (long j = 0; j < count; j++) total += weights[h * ld + first + j] * values[j * s.value + d];
                    sums[h * s.value + d] = total;
                }
        });
        for (long h = 0; h < share; h++)
            for (long d = 0; d < s.value; d++) sums[h * s.value + d] /= totals[h];
    }
}

}  // extern "C"
