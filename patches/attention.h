// Attention over a cache of 16-bit floats on x86, with one arithmetic for every query: its result is the same to
// the bit whatever is computed beside it, wherever its cells lie, and however many threads take part.
//
// - A score is a sum of LANES partial sums over the head, which are added in one order.
// - Weights are powers of two. A weight is 2^(u - E), where E is a whole number and at least the greatest u so far,
//   and 2^(u - E) is computed as 2^(u - n) for the nearest whole n, times 2^(n - E). So a larger E only shifts
//   exponents, and when it is found does not matter.
// - Weights and weighted values are added in the order of positions. A cell that a query does not see adds nothing.
//
// Queries of one head of the cache are computed together in tiles, which share what is read: the heads of a group
// and tokens that see nearly the same cells.
#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PUNA_ATTENTION

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace puna {

#if defined(__AVX512F__)
using vec = __m512;
constexpr int LANES = 16;
inline vec zero() { return _mm512_setzero_ps(); }
inline vec all(float x) { return _mm512_set1_ps(x); }
inline vec load(const float * x) { return _mm512_loadu_ps(x); }
inline vec load(const uint16_t * x) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) x)); }
inline void store(float * x, vec a) { _mm512_storeu_ps(x, a); }
inline vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
inline vec sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
inline vec mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
inline vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
// The greater one; the second if either is no number.
inline vec greater(vec a, vec b) { return _mm512_max_ps(a, b); }
inline vec smaller(vec a, vec b) { return _mm512_min_ps(a, b); }
inline vec div(vec a, vec b) { return _mm512_div_ps(a, b); }
inline vec whole(vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// 2^k for whole k.
inline vec power(vec k) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(k), _mm512_set1_epi32(127)), 23));
}
// a, and 0 where k is less than the bound.
inline vec unless_less(vec k, vec bound, vec a) {
    return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(k, bound, _CMP_LT_OQ), zero());
}
inline float greatest(vec a) { return _mm512_reduce_max_ps(a); }
#else
using vec = __m256;
constexpr int LANES = 8;
inline vec zero() { return _mm256_setzero_ps(); }
inline vec all(float x) { return _mm256_set1_ps(x); }
inline vec load(const float * x) { return _mm256_loadu_ps(x); }
inline vec load(const uint16_t * x) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) x)); }
inline void store(float * x, vec a) { _mm256_storeu_ps(x, a); }
inline vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
inline vec sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
inline vec mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
inline vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
inline vec greater(vec a, vec b) { return _mm256_max_ps(a, b); }
inline vec smaller(vec a, vec b) { return _mm256_min_ps(a, b); }
inline vec div(vec a, vec b) { return _mm256_div_ps(a, b); }
inline vec whole(vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline vec power(vec k) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127)), 23));
}
inline vec unless_less(vec k, vec bound, vec a) {
    return _mm256_blendv_ps(a, zero(), _mm256_cmp_ps(k, bound, _CMP_LT_OQ));
}
inline float greatest(vec a) {
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
#endif

// Keeps a vector in a register: the compiler would load it again for every use.
inline vec kept(vec a) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(a));
#else
    __asm__("" : "+x"(a));
#endif
    return a;
}

// Where `sums` expects the vector whose sum it returns in lane p.
constexpr int place(int p) { return LANES / 4 * (p % 4) + p / 4; }

// The sums of LANES vectors, each added in the same order: the upper half to the lower, until one lane is left.
inline vec sums(const vec * a) {
#if defined(__AVX512F__)
    vec b[8], c[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        b[i] = add(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x44), _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xEE));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        c[i] = add(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88), _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xDD));
    }
    const vec d = add(_mm512_shuffle_ps(c[0], c[1], 0x44), _mm512_shuffle_ps(c[0], c[1], 0xEE));
    const vec e = add(_mm512_shuffle_ps(c[2], c[3], 0x44), _mm512_shuffle_ps(c[2], c[3], 0xEE));
    return add(_mm512_shuffle_ps(d, e, 0x88), _mm512_shuffle_ps(d, e, 0xDD));
#else
    vec b[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        b[i] = add(_mm256_permute2f128_ps(a[2 * i], a[2 * i + 1], 0x20), _mm256_permute2f128_ps(a[2 * i], a[2 * i + 1], 0x31));
    }
    const vec c = add(_mm256_shuffle_ps(b[0], b[1], 0x44), _mm256_shuffle_ps(b[0], b[1], 0xEE));
    const vec d = add(_mm256_shuffle_ps(b[2], b[3], 0x44), _mm256_shuffle_ps(b[2], b[3], 0xEE));
    return add(_mm256_shuffle_ps(c, d, 0x88), _mm256_shuffle_ps(c, d, 0xDD));
#endif
}

// Cells that are computed at once, and most queries of a tile.
constexpr int CELLS = 64;
constexpr int ROWS = 32;
// Below every exponent that counts.
constexpr float NEVER = -30000.0f;
// Weights of less than 2^-100 of the greatest are none.
constexpr float LEAST = -100.0f;

// Converts a row of the cache.
using to_floats = void (*)(const void * from, float * to, int64_t n);

// One call's queries and cache. Strides are in bytes; `token`, `head` and `stream` tell what they step over.
struct attention {
    const char * q; size_t q_token, q_head, q_stream;
    const char * k; size_t k_cell, k_head, k_stream;
    const char * v; size_t v_cell, v_head, v_stream;
    const char * mask; size_t mask_token, mask_stream; int64_t mask_streams; // null: every cell is seen
    const uint16_t * order; // cells by position: two rows of 16-bit floats, cell / 1024 and cell % 1024; null or -1: as they lie
    const float * sinks; // one a head, or null
    char * out; size_t out_head; // tokens lie heads * out_head apart
    int64_t tokens, heads, streams, cells, kv_heads, kv_streams;
    int64_t key, value; // lengths of a head
    to_floats k_floats, v_floats; // null: 16-bit floats
    float scale, softcap, max_bias;

    // The lengths in whole vectors.
    int64_t key_lanes() const { return (key + LANES - 1) / LANES * LANES; }
    int64_t value_lanes() const { return (value + LANES - 1) / LANES * LANES; }
    // True if vectors can be read from the cache as it lies.
    bool is_plain() const {
        return !k_floats && !v_floats && key == key_lanes() && value == value_lanes();
    }
};

// The rows of a cache that a block reads: as they lie, or copied.
template <typename T> struct rows {
    const char * start;
    size_t stride;
    const int32_t * cells; // null: one after another
    const T * at(int i) const { return (const T *) (start + stride * (cells ? cells[i] : i)); }
};

// The scores of R queries with n cells; `out` has CELLS for each query.
template <int R, typename T>
inline void scores(const float * q, int64_t length, const rows<T> & keys, int n, float * out) {
    constexpr int KEYS = LANES / R;
    for (int first = 0; first < n; first += KEYS) {
        const T * k[KEYS];
        for (int j = 0; j < KEYS; ++j) {
            k[j] = keys.at(std::min(first + j, n - 1));
        }
        vec sum[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) {
            sum[i] = zero();
        }
        for (int64_t d = 0; d < length; d += LANES) {
            vec query[R];
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
                query[r] = kept(load(q + r * length + d));
            }
#pragma GCC unroll 16
            for (int j = 0; j < KEYS; ++j) {
                const vec value = kept(load(k[j] + d));
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) {
                    vec & s = sum[place(r * KEYS + j)];
                    s = fma(query[r], value, s);
                }
            }
        }
        float scored[LANES];
        store(scored, sums(sum));
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            std::memcpy(out + r * CELLS + first, scored + r * KEYS, KEYS * sizeof(float));
        }
    }
}

// Adds the values of n cells, D vectors of them, with the weights of R queries.
template <int R, int D, bool WEIGHTS, typename T>
inline void weighted(const float * weights, const rows<T> & values, int64_t from, int n, float * out, int64_t length, float * total) {
    vec sum[R][D], weight_sum[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
        weight_sum[r] = all(WEIGHTS ? total[r] : 0.0f);
#pragma GCC unroll 8
        for (int i = 0; i < D; ++i) {
            sum[r][i] = load(out + r * length + from + i * LANES);
        }
    }
    for (int c = 0; c < n; ++c) {
        const T * value = values.at(c) + from;
        vec loaded[D];
#pragma GCC unroll 8
        for (int i = 0; i < D; ++i) {
            loaded[i] = kept(load(value + i * LANES));
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const vec weight = kept(all(weights[r * CELLS + c]));
            if (WEIGHTS) {
                weight_sum[r] = add(weight_sum[r], weight);
            }
#pragma GCC unroll 8
            for (int i = 0; i < D; ++i) {
                sum[r][i] = fma(weight, loaded[i], sum[r][i]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
        if (WEIGHTS) {
            float lanes[LANES];
            store(lanes, weight_sum[r]);
            total[r] = lanes[0];
        }
#pragma GCC unroll 8
        for (int i = 0; i < D; ++i) {
            store(out + r * length + from + i * LANES, sum[r][i]);
        }
    }
}

// The same for all values of a head, and the sums of weights.
template <int R, typename T>
inline void weighted(const float * weights, const rows<T> & values, int n, float * out, int64_t length, float * total) {
    constexpr int D = LANES / 4;
    int64_t from = 0;
    for (; from + D * LANES <= length; from += D * LANES) {
        if (from == 0) {
            weighted<R, D, true>(weights, values, from, n, out, length, total);
        } else {
            weighted<R, D, false>(weights, values, from, n, out, length, total);
        }
    }
    for (; from < length; from += LANES) {
        if (from == 0) {
            weighted<R, 1, true>(weights, values, from, n, out, length, total);
        } else {
            weighted<R, 1, false>(weights, values, from, n, out, length, total);
        }
    }
}

// 2^x for x between -0.5 and 0.5, to 2.6e-9: the polynomial through the Chebyshev nodes.
inline vec power_of_fraction(vec x) {
    vec y = all(0.000154614447f);
    y = fma(y, x, all(0.00134004282f));
    y = fma(y, x, all(0.00961805668f));
    y = fma(y, x, all(0.0555032723f));
    y = fma(y, x, all(0.240226509f));
    y = fma(y, x, all(0.693147207f));
    return fma(y, x, all(1.0f));
}

constexpr float LOG2_E = 1.44269504f;

// The hyperbolic tangent, to 1e-7.
inline vec tanh(vec x) {
    x = greater(all(-15.0f), smaller(all(15.0f), x));
    const vec u = mul(x, all(2.0f * LOG2_E)), n = whole(u);
    const vec e = mul(power_of_fraction(sub(u, n)), power(n));
    return sub(all(1.0f), div(all(2.0f), add(e, all(1.0f))));
}

// Makes the sums relative to another exponent.
inline void shift(float & exponent, float to, float & total, float * out, int64_t length) {
    if (exponent > NEVER) {
        const float factor = std::ldexp(1.0f, (int) std::max(exponent - to, NEVER));
        total *= factor;
        for (int64_t d = 0; d < length; d += LANES) {
            store(out + d, mul(load(out + d), all(factor)));
        }
    }
    exponent = to;
}

// 2^(u - exponent), 0 if that is too little to count.
inline vec weight_of(vec u, float exponent) {
    const vec n = whole(u), k = sub(n, all(exponent));
    return unless_less(k, all(LEAST), mul(power_of_fraction(sub(u, n)), power(greater(all(LEAST), k))));
}

// Turns the scores of one query with n cells into weights; the block's last vector is filled with zeros.
__attribute__((noinline)) inline void weigh(const attention & a, float * s, const float * mask, float slope, int n, float & exponent, float & total, float * out) {
    vec most = all(NEVER);
    for (int c = 0; c < n; c += LANES) {
        vec u = mul(load(s + c), all(a.scale));
        if (a.softcap != 0.0f) {
            u = mul(tanh(mul(u, all(1.0f / a.softcap))), all(a.softcap));
        }
        if (mask) {
            u = fma(load(mask + c), all(slope), u);
        }
        u = greater(all(NEVER), mul(u, all(LOG2_E)));
        store(s + c, u);
        if (c + LANES > n) {
            std::fill(s + n, s + c + LANES, NEVER);
            u = load(s + c);
        }
        most = greater(most, whole(u));
    }
    const float highest = greatest(most);
    if (highest > exponent) {
        shift(exponent, highest, total, out, a.value_lanes());
    }
    for (int c = 0; c < n; c += LANES) {
        // A query that has seen no cell yet has no greatest one.
        store(s + c, exponent > NEVER ? weight_of(load(s + c), exponent) : zero());
    }
}

// Adds the weight of a head's sink, which has no value.
inline void add_sink(float sink, float & exponent, float & total, float * out, int64_t length) {
    const vec u = all(sink * LOG2_E);
    float lanes[LANES];
    store(lanes, whole(u));
    if (lanes[0] > exponent) {
        shift(exponent, lanes[0], total, out, length);
    }
    store(lanes, weight_of(u, exponent));
    total += lanes[0];
}

// One thread's memory.
struct scratch {
    std::vector<uint64_t> seen; // a bit for each token and cell
    std::vector<uint64_t> either;
    std::vector<int32_t> order; // cells by position; empty: as they lie
    std::vector<float> q, s, mask, out, k, v, exponent, total;
};

// A bit for each of `count` cells, at most 64, that a token sees.
inline uint64_t seen_bits(const uint16_t * mask, int64_t count) {
    const __m256i hidden = _mm256_set1_epi16((short) 0xFC00);
    uint64_t bits = 0;
    int64_t c = 0;
    for (; c + 32 <= count; c += 32) {
        const __m256i low = _mm256_cmpeq_epi16(_mm256_loadu_si256((const __m256i *) (mask + c)), hidden);
        const __m256i high = _mm256_cmpeq_epi16(_mm256_loadu_si256((const __m256i *) (mask + c + 16)), hidden);
        const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xD8);
        bits |= (uint64_t) (uint32_t) ~_mm256_movemask_epi8(both) << c;
    }
    for (; c < count; ++c) {
        bits |= (uint64_t) (mask[c] != 0xFC00) << c;
    }
    return bits;
}

// The queries of some tokens and heads that share a head of the cache.
struct tile {
    int64_t stream, kv_head, first_token, tokens, first_head, heads;
};

// Divides a call into tiles, enough of them for every thread to have about as much to do.
class tiling {
    const attention & a;
    int64_t group, heads, tokens;

  public:
    tiling(const attention & a, int threads) : a(a), group(a.heads / a.kv_heads) {
        heads = std::min<int64_t>(group, ROWS);
        tokens = std::min(a.tokens, std::max<int64_t>(1, ROWS / heads));
        while (is_uneven(threads) && (tokens > 1 || heads > 1)) {
            int64_t & larger = tokens > 1 ? tokens : heads;
            larger = (larger + 1) / 2;
        }
    }

    int64_t count() const { return a.streams * a.kv_heads * head_blocks() * token_blocks(); }

    tile at(int64_t i) const {
        const int64_t token = i % token_blocks() * tokens;
        i /= token_blocks();
        const int64_t head = i % head_blocks() * heads;
        i /= head_blocks();
        const int64_t kv_head = i % a.kv_heads;
        return {i / a.kv_heads,
                kv_head,
                token,
                std::min(tokens, a.tokens - token),
                kv_head * group + head,
                std::min(heads, group - head)};
    }

  private:
    int64_t head_blocks() const { return (group + heads - 1) / heads; }
    int64_t token_blocks() const { return (a.tokens + tokens - 1) / tokens; }
    bool is_uneven(int threads) const {
        const int64_t rounds = (count() + threads - 1) / threads;
        return rounds * threads * 5 > count() * 6;
    }
};

// Computes tiles, one at a time.
class worker {
    const attention & a;
    scratch & m;
    const int64_t words, key, value;

  public:
    worker(const attention & a, scratch & m)
        : a(a), m(m), words((a.cells + 63) / 64), key(a.key_lanes()), value(a.value_lanes()) {
        // What fills the last vector of a row stays 0.
        if (key != a.key || value != a.value) {
            m.q.clear();
            m.k.clear();
            m.v.clear();
        }
        m.q.resize(ROWS * key);
        m.k.resize(CELLS * key);
        m.v.resize(CELLS * value);
        m.out.resize(ROWS * value);
        m.s.resize(ROWS * CELLS);
        m.mask.resize(CELLS);
        m.exponent.resize(ROWS);
        m.total.resize(ROWS);
        m.order.clear();
        if (a.order && _cvtsh_ss(a.order[0]) >= 0.0f) {
            for (int64_t i = 0; i < a.cells; ++i) {
                m.order.push_back((int32_t) (_cvtsh_ss(a.order[i]) * 1024.0f + _cvtsh_ss(a.order[a.cells + i])));
            }
        }
    }

    // Computes a tile; tokens that see other cells are computed one after another.
    void compute(const tile & t) {
        m.seen.resize(t.tokens * words);
        m.either.resize(words);
        for (int64_t i = 0; i < t.tokens; ++i) {
            for (int64_t w = 0; w < words; ++w) {
                const int64_t count = std::min<int64_t>(64, a.cells - w * 64);
                m.seen[i * words + w] = a.mask ? seen_bits(mask_row(t, i) + w * 64, count) : ~0ull >> (64 - count);
            }
        }
        for (int64_t i = 0; i < t.tokens;) {
            const int64_t n = join(t, i);
            compute_joined({t.stream, t.kv_head, t.first_token + i, n, t.first_head, t.heads});
            i += n;
        }
    }

  private:
    const uint16_t * mask_row(const tile & t, int64_t i) const {
        return (const uint16_t *) (a.mask + (t.first_token + i) * a.mask_token + t.stream % a.mask_streams * a.mask_stream);
    }

    // How many tokens from this one on see so much of the same that computing them together costs less; `either`
    // gets the cells that any of them sees.
    int64_t join(const tile & t, int64_t first) {
        std::copy_n(&m.seen[first * words], words, m.either.begin());
        int64_t n = 1;
        for (; first + n < t.tokens; ++n) {
            const uint64_t * next = &m.seen[(first + n) * words];
            int64_t common = 0, all = 0;
            for (int64_t w = 0; w < words; ++w) {
                common += __builtin_popcountll(m.either[w] & next[w]);
                all += __builtin_popcountll(m.either[w] | next[w]);
            }
            if (all - common > CELLS / 2 + common / 4) {
                break;
            }
            for (int64_t w = 0; w < words; ++w) {
                m.either[w] |= next[w];
            }
        }
        return n;
    }

    void compute_joined(const tile & t) {
        const int64_t queries = t.tokens * t.heads;
        for (int64_t i = 0; i < queries; ++i) {
            const int64_t token = t.first_token + i / t.heads, head = t.first_head + i % t.heads;
            const char * q = a.q + token * a.q_token + head * a.q_head + t.stream * a.q_stream;
            std::memcpy(&m.q[i * key], q, a.key * sizeof(float));
        }
        std::fill_n(m.out.begin(), queries * value, 0.0f);
        std::fill_n(m.exponent.begin(), queries, NEVER);
        std::fill_n(m.total.begin(), queries, 0.0f);
        int32_t cells[CELLS];
        int n = 0;
        const auto add = [&](int32_t cell) {
            cells[n++] = cell;
            if (n == CELLS) {
                block(t, cells, n);
                n = 0;
            }
        };
        for (const int32_t cell : m.order) {
            if (m.either[cell / 64] >> cell % 64 & 1) {
                add(cell);
            }
        }
        for (int64_t w = 0; w < words && m.order.empty(); ++w) {
            for (uint64_t bits = m.either[w]; bits != 0; bits &= bits - 1) {
                add((int32_t) (w * 64 + __builtin_ctzll(bits)));
            }
        }
        if (n > 0) {
            block(t, cells, n);
        }
        finish(t);
    }

    // Adds n cells to the sums of a tile's queries.
    void block(const tile & t, const int32_t * cells, int n) {
        const int64_t kv_stream = t.stream / (a.streams / a.kv_streams);
        const rows<uint16_t> keys = {a.k + t.kv_head * a.k_head + kv_stream * a.k_stream, a.k_cell, cells};
        const rows<uint16_t> values = {a.v + t.kv_head * a.v_head + kv_stream * a.v_stream, a.v_cell, cells};
        if (t.tokens * t.heads <= 4 && a.is_plain()) {
            return block_of(t, cells, n, keys, values);
        }
        copy(keys, n, a.k_floats, a.key, key, m.k.data());
        copy(values, n, a.v_floats, a.value, value, m.v.data());
        const rows<float> copied_keys = {(const char *) m.k.data(), key * sizeof(float), nullptr};
        const rows<float> copied_values = {(const char *) m.v.data(), value * sizeof(float), nullptr};
        block_of(t, cells, n, copied_keys, copied_values);
    }

    static void copy(const rows<uint16_t> & from, int n, to_floats floats, int64_t length, int64_t stride, float * to) {
        for (int c = 0; c < n; ++c, to += stride) {
            const uint16_t * row = from.at(c);
            if (floats) {
                floats(row, to, length);
                continue;
            }
            int64_t d = 0;
            for (; d + LANES <= length; d += LANES) {
                store(to + d, load(row + d));
            }
            for (; d < length; ++d) {
                to[d] = _cvtsh_ss(row[d]);
            }
        }
    }

    template <typename T>
    void block_of(const tile & t, const int32_t * cells, int n, const rows<T> & keys, const rows<T> & values) {
        const int64_t queries = t.tokens * t.heads;
        in_groups(queries, [&](auto r, int64_t i) { scores<r>(&m.q[i * key], key, keys, n, &m.s[i * CELLS]); });
        for (int64_t i = 0; i < t.tokens; ++i) {
            const float * mask = a.mask ? mask_of(t, i, cells, n) : nullptr;
            for (int64_t h = 0; h < t.heads; ++h) {
                const int64_t row = i * t.heads + h;
                weigh(a, &m.s[row * CELLS], mask, slope(t.first_head + h), n, m.exponent[row], m.total[row], &m.out[row * value]);
            }
        }
        in_groups(queries, [&](auto r, int64_t i) {
            weighted<r>(&m.s[i * CELLS], values, n, &m.out[i * value], value, &m.total[i]);
        });
    }

    // Calls f with 4, 2 or 1 and the first query, until all have been.
    template <typename F> static void in_groups(int64_t queries, F f) {
        int64_t i = 0;
        for (; i + 4 <= queries; i += 4) {
            f(std::integral_constant<int, 4>(), i);
        }
        if (i + 2 <= queries) {
            f(std::integral_constant<int, 2>(), i);
            i += 2;
        }
        if (i < queries) {
            f(std::integral_constant<int, 1>(), i);
        }
    }

    // What the mask says of these cells.
    const float * mask_of(const tile & t, int64_t i, const int32_t * cells, int n) {
        const uint16_t * row = mask_row(t, i);
        int c = 0;
        if (m.order.empty() && cells[n - 1] - cells[0] == n - 1) { // One behind the other.
            for (; c + LANES <= n; c += LANES) {
                store(&m.mask[c], load(row + cells[0] + c));
            }
        }
        for (; c < n; ++c) {
            m.mask[c] = _cvtsh_ss(row[cells[c]]);
        }
        return m.mask.data();
    }

    // The slope of a head's bias by distance (ALiBi).
    float slope(int64_t head) const {
        if (a.max_bias <= 0.0f) {
            return 1.0f;
        }
        const uint32_t power = 1u << (uint32_t) std::floor(std::log2((double) a.heads));
        const float base = std::pow(2.0f, -(head < power ? a.max_bias : a.max_bias / 2.0f) / power);
        return std::pow(base, (float) (head < power ? head + 1 : 2 * (head - power) + 1));
    }

    void finish(const tile & t) {
        for (int64_t row = 0; row < t.tokens * t.heads; ++row) {
            const int64_t token = t.first_token + row / t.heads, head = t.first_head + row % t.heads;
            float * out = &m.out[row * value];
            if (a.sinks) {
                add_sink(a.sinks[head], m.exponent[row], m.total[row], out, value);
            }
            const vec factor = all(m.total[row] == 0.0f ? 0.0f : 1.0f / m.total[row]);
            for (int64_t d = 0; d < value; d += LANES) {
                store(out + d, mul(load(out + d), factor));
            }
            std::memcpy(a.out + ((t.stream * a.tokens + token) * a.heads + head) * a.out_head, out, a.value * sizeof(float));
        }
    }
};

} // namespace puna

#endif
