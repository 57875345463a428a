// Products of quantised weights with any number of rows of activations: blocks of 32 (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL,
// MXFP4) and of 256 (Q4_K, Q5_K, Q6_K).
//
// Sixteen rows of weights are computed together, one in each lane. The sums of integers in a block are exact, and blocks are
// added one by one, so a product is the same to the bit whatever is computed beside it; for blocks of 256 also the same as
// those of tiled/tiled.cpp and of ggml_vec_dot.
#pragma once

#include "few_tokens.h"

#if defined(PUNA_FEW_TOKENS)
#define PUNA_SIXTEEN_ROWS

#include <type_traits>

namespace puna {
namespace sixteen_rows {

// Rows of weights that are computed together.
constexpr int ROWS = 16;
// Rows of activations that share the registers with them.
constexpr int TOKENS = 16;
// Weights are fetched so many bytes ahead in each row.
constexpr int64_t AHEAD = 1024;

// What a block of activations is multiplied by, and the sum of its values.
struct activation {
    float d;
    union {
        int32_t sum; // times the offset of the weights, negated
        float s;     // times d
    };
};

// One block of 32 of each of sixteen rows: four values of each row in a register, then the next four.
struct alignas(64) unpacked {
    __m512i weights[8];
    __m512 d, m;
};

// One block of 256 of each of sixteen rows.
struct alignas(64) unpacked_k {
    __m512i weights[64];
    __m512i scales[16]; // 32 bits wide, one for each 32 values or for each 16
    __m512i mins[8];    // pairs of 16 bits, for pairs of sums of 16 activations
    __m512 d, m;
};

// How the types differ: what is added to each value to make it unsigned, the blocks of activations, and whether a block has
// a least value.
template <typename B> struct traits;
template <int OFFSET, typename Y> struct with_offset {
    static constexpr int values = 32;
    static constexpr int offset = OFFSET;
    static constexpr bool has_min = false;
    typedef Y activations;
    typedef sixteen_rows::unpacked unpacked;
};
struct with_min : with_offset<0, block_q8_1> {
    static constexpr bool has_min = true;
};
struct of_256 {
    static constexpr int values = 256;
    static constexpr bool has_min = true;
    static constexpr int scaled = 32; // values that a scale belongs to
    typedef block_q8_K activations;
    typedef unpacked_k unpacked;
};
template <> struct traits<block_q4_0> : with_offset<8, block_q8_0> {};
template <> struct traits<block_q5_0> : with_offset<16, block_q8_0> {};
template <> struct traits<block_q8_0> : with_offset<128, block_q8_0> {};
template <> struct traits<block_iq4_nl> : with_offset<128, block_q8_0> {};
template <> struct traits<block_mxfp4> : with_offset<128, block_q8_0> {};
template <> struct traits<block_q4_1> : with_min {};
template <> struct traits<block_q5_1> : with_min {};
template <> struct traits<block_q4_K> : of_256 {};
template <> struct traits<block_q5_K> : of_256 {};
template <> struct traits<block_q6_K> : of_256 {
    static constexpr bool has_min = false;
    static constexpr int scaled = 16;
};

// Four bytes at a place in each row.
PUNA_INLINE __m512i four_bytes(const char * at, size_t stride) {
    __m128i quarters[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        int32_t words[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            std::memcpy(words + j, at + (4 * i + j) * stride, 4);
        }
        quarters[i] = _mm_setr_epi32(words[0], words[1], words[2], words[3]);
    }
    const __m256i low = _mm256_setr_m128i(quarters[0], quarters[1]), high = _mm256_setr_m128i(quarters[2], quarters[3]);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// Sixteen bytes at a place in each row, four of each row in a register.
PUNA_INLINE void sixteen_bytes(const char * at, size_t stride, __m512i * to) {
    __m512i a[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        const auto row = [&](int r) { return _mm_loadu_si128((const __m128i *) (at + r * stride)); };
        a[j] = _mm512_castsi128_si512(row(j));
        a[j] = _mm512_inserti32x4(a[j], row(j + 4), 1);
        a[j] = _mm512_inserti32x4(a[j], row(j + 8), 2);
        a[j] = _mm512_inserti32x4(a[j], row(j + 12), 3);
    }
    const __m512i low[2] = {_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpacklo_epi32(a[2], a[3])};
    const __m512i high[2] = {_mm512_unpackhi_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[2], a[3])};
    to[0] = _mm512_unpacklo_epi64(low[0], low[1]);
    to[1] = _mm512_unpackhi_epi64(low[0], low[1]);
    to[2] = _mm512_unpacklo_epi64(high[0], high[1]);
    to[3] = _mm512_unpackhi_epi64(high[0], high[1]);
}

// Thirty-two bytes at a place in each row.
PUNA_INLINE void thirty_two_bytes(const char * at, size_t stride, __m512i * to) {
    sixteen_bytes(at, stride, to);
    sixteen_bytes(at + 16, stride, to + 4);
}

// Thirty-two values of four bits: low halves first.
PUNA_INLINE void halves(const char * at, size_t stride, __m512i * to) {
    __m512i packed[4];
    sixteen_bytes(at, stride, packed);
    const __m512i four = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
        to[g] = _mm512_and_si512(packed[g], four);
        to[g + 4] = _mm512_and_si512(_mm512_srli_epi16(packed[g], 4), four);
    }
}

// Adds the fifth bit of each value.
PUNA_INLINE void fifth_bits(const char * at, size_t stride, __m512i * to) {
    // Four bits, each to the fifth of a byte.
    const __m512i spread = _mm512_setr_epi32(
        0, 0x10, 0x1000, 0x1010, 0x100000, 0x100010, 0x101000, 0x101010,
        0x10000000, 0x10000010, 0x10001000, 0x10001010, 0x10100000, 0x10100010, 0x10101000, 0x10101010);
    __m512i bits = four_bytes(at, stride);
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
        to[g] = _mm512_or_si512(to[g], _mm512_permutexvar_epi32(bits, spread));
        bits = _mm512_srli_epi32(bits, 4);
    }
}

// Values of a table, made unsigned.
PUNA_INLINE void looked_up(const int8_t * table, __m512i * to) {
    const __m128i values = _mm_xor_si128(_mm_loadu_si128((const __m128i *) table), _mm_set1_epi8(-128));
    const __m512i all = _mm512_broadcast_i32x4(values);
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
        to[g] = _mm512_shuffle_epi8(all, to[g]);
    }
}

PUNA_INLINE __m512i bits_of(__m512i words, int mask) { return _mm512_and_si512(words, _mm512_set1_epi32(mask)); }
PUNA_INLINE __m512 low_floats(__m512i words) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)); }
PUNA_INLINE __m512 high_floats(__m512i words) { return low_floats(_mm512_srli_epi32(words, 16)); }

// The factor of a block, and its least value if it has one: the block's first bytes.
template <typename B> PUNA_INLINE void factors(const B * block, size_t stride, unpacked & to) {
    const __m512i both = four_bytes((const char *) block, stride);
    to.d = low_floats(both);
    if constexpr (traits<B>::has_min) {
        to.m = high_floats(both);
    }
}

// Q4_0 and Q4_1.
template <typename B> PUNA_INLINE void unpack_four_bits(const B * block, size_t stride, unpacked & to) {
    factors(block, stride, to);
    halves((const char *) block->qs, stride, to.weights);
}

// Q5_0 and Q5_1.
template <typename B> PUNA_INLINE void unpack_five_bits(const B * block, size_t stride, unpacked & to) {
    unpack_four_bits(block, stride, to);
    fifth_bits((const char *) block->qh, stride, to.weights);
}

PUNA_INLINE void unpack(const block_q4_0 * block, size_t stride, unpacked & to) { unpack_four_bits(block, stride, to); }
PUNA_INLINE void unpack(const block_q4_1 * block, size_t stride, unpacked & to) { unpack_four_bits(block, stride, to); }
PUNA_INLINE void unpack(const block_q5_0 * block, size_t stride, unpacked & to) { unpack_five_bits(block, stride, to); }
PUNA_INLINE void unpack(const block_q5_1 * block, size_t stride, unpacked & to) { unpack_five_bits(block, stride, to); }

PUNA_INLINE void unpack(const block_q8_0 * block, size_t stride, unpacked & to) {
    factors(block, stride, to);
    thirty_two_bytes((const char *) block->qs, stride, to.weights);
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
        to.weights[g] = _mm512_xor_si512(to.weights[g], _mm512_set1_epi8(-128));
    }
}

PUNA_INLINE void unpack(const block_iq4_nl * block, size_t stride, unpacked & to) {
    unpack_four_bits(block, stride, to);
    looked_up(kvalues_iq4nl, to.weights);
}

PUNA_INLINE void unpack(const block_mxfp4 * block, size_t stride, unpacked & to) {
    // A power of two, halved, since the table's values are doubled; the least two are subnormal.
    const __m512i e = _mm512_and_si512(four_bytes((const char *) &block->e, stride), _mm512_set1_epi32(255));
    const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    const __m512i least = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    to.d = _mm512_castsi512_ps(_mm512_mask_blend_epi32(_mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2)), normal, least));
    halves((const char *) block->qs, stride, to.weights);
    looked_up(kvalues_mxfp4, to.weights);
}

// Scales and least values of Q4_K and Q5_K, 6 bits each in 12 bytes, with the factors of both before them.
PUNA_INLINE void scales_and_mins(const char * block, size_t stride, unpacked_k & to) {
    __m512i words[4];
    sixteen_bytes(block, stride, words);
    to.d = low_floats(words[0]);
    to.m = high_floats(words[0]);
    const auto high = [](__m512i of) { return _mm512_slli_epi32(bits_of(_mm512_srli_epi32(of, 6), 0x03030303), 4); };
    const __m512i scales[2] = {bits_of(words[1], 0x3f3f3f3f), _mm512_or_si512(bits_of(words[3], 0x0f0f0f0f), high(words[1]))};
    const __m512i mins[2] = {bits_of(words[2], 0x3f3f3f3f),
                             _mm512_or_si512(bits_of(_mm512_srli_epi32(words[3], 4), 0x0f0f0f0f), high(words[2]))};
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
        to.scales[j] = bits_of(_mm512_srli_epi32(scales[j / 4], 8 * (j % 4)), 255);
        const __m512i min = bits_of(_mm512_srli_epi32(mins[j / 4], 8 * (j % 4)), 255);
        to.mins[j] = _mm512_or_si512(min, _mm512_slli_epi32(min, 16));
    }
}

// 256 values of four bits: 32 low halves, then the high ones of the same bytes.
PUNA_INLINE void all_halves(const char * at, size_t stride, __m512i * to) {
    const __m512i four = _mm512_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
        __m512i packed[8];
        thirty_two_bytes(at + 32 * j, stride, packed);
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) {
            to[16 * j + g] = _mm512_and_si512(packed[g], four);
            to[16 * j + 8 + g] = _mm512_and_si512(_mm512_srli_epi16(packed[g], 4), four);
        }
    }
}

PUNA_INLINE void unpack(const block_q4_K * block, size_t stride, unpacked_k & to) {
    scales_and_mins((const char *) block, stride, to);
    all_halves((const char *) block->qs, stride, to.weights);
}

PUNA_INLINE void unpack(const block_q5_K * block, size_t stride, unpacked_k & to) {
    scales_and_mins((const char *) block, stride, to);
    all_halves((const char *) block->qs, stride, to.weights);
    __m512i high[8];
    thirty_two_bytes((const char *) block->qh, stride, high);
    for (int j = 0; j < 8; ++j) {
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) {
            // Bit j of each byte belongs to the j-th 32 values.
            const __m512i bit = _mm512_and_si512(_mm512_srl_epi16(high[g], _mm_cvtsi32_si128(j)), _mm512_set1_epi8(1));
            to.weights[8 * j + g] = _mm512_or_si512(to.weights[8 * j + g], _mm512_slli_epi16(bit, 4));
        }
    }
}

PUNA_INLINE void unpack(const block_q6_K * block, size_t stride, unpacked_k & to) {
    // The factor is the block's last two bytes: what lies behind them may not be there.
    to.d = high_floats(four_bytes((const char *) &block->d - 2, stride));
    __m512i scales[4];
    sixteen_bytes((const char *) block->scales, stride, scales);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            to.scales[4 * j + i] = _mm512_srai_epi32(_mm512_slli_epi32(scales[j], 24 - 8 * i), 24);
        }
        // Each value was raised by 32.
        const __m512i low = _mm512_srai_epi16(_mm512_slli_epi16(scales[j], 8), 8), high = _mm512_srai_epi16(scales[j], 8);
        const __m512i first = _mm512_or_si512(bits_of(low, 0xffff), _mm512_slli_epi32(high, 16));
        const __m512i second = _mm512_or_si512(_mm512_srli_epi32(low, 16), _mm512_andnot_si512(_mm512_set1_epi32(0xffff), high));
        to.mins[2 * j] = _mm512_mullo_epi16(first, _mm512_set1_epi16(-32));
        to.mins[2 * j + 1] = _mm512_mullo_epi16(second, _mm512_set1_epi16(-32));
    }
    const __m512i four = _mm512_set1_epi8(15), two = _mm512_set1_epi8(48);
    for (int half = 0; half < 2; ++half) {
        __m512i low[16], high[8];
        thirty_two_bytes((const char *) block->ql + 64 * half, stride, low);
        thirty_two_bytes((const char *) block->ql + 64 * half + 32, stride, low + 8);
        thirty_two_bytes((const char *) block->qh + 32 * half, stride, high);
        __m512i * weights = to.weights + 32 * half;
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) {
            const auto both = [&](__m512i four_bits, __m512i two_bits) {
                return _mm512_or_si512(_mm512_and_si512(four_bits, four), _mm512_and_si512(two_bits, two));
            };
            weights[g] = both(low[g], _mm512_slli_epi16(high[g], 4));
            weights[8 + g] = both(low[8 + g], _mm512_slli_epi16(high[g], 2));
            weights[16 + g] = both(_mm512_srli_epi16(low[g], 4), high[g]);
            weights[24 + g] = both(_mm512_srli_epi16(low[8 + g], 4), _mm512_srli_epi16(high[g], 2));
        }
    }
}

// Four bytes of activations, for all rows of weights.
PUNA_INLINE __m512i four(const void * at) {
    int32_t bytes;
    std::memcpy(&bytes, at, 4);
    return _mm512_set1_epi32(bytes);
}

// Rows of activations, and where their products go.
template <typename B> struct tokens {
    typedef typename traits<B>::activations Y;
    const Y * y[TOKENS];
    const activation * about[TOKENS];
    float * out[TOKENS];
};

// Adds the products of one block of each row of weights with a block of N rows of activations.
template <int N, typename B>
PUNA_INLINE void add_block(const unpacked & x, const tokens<B> & by, int64_t block, __m512 * sums) {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
        const auto & y = by.y[n][block];
        const activation & about = by.about[n][block];
        __m512i sum = traits<B>::offset == 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(about.sum);
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) {
            sum = _mm512_dpbusd_epi32(sum, x.weights[g], four(y.qs + 4 * g));
        }
        sums[n] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), x.d), _mm512_set1_ps(about.d), sums[n]);
        if constexpr (traits<B>::has_min) {
            sums[n] = _mm512_fmadd_ps(x.m, _mm512_set1_ps(about.s), sums[n]);
        }
    }
}

// The same for blocks of 256.
template <int N, typename B>
PUNA_INLINE void add_block(const unpacked_k & x, const tokens<B> & by, int64_t block, __m512 * sums) {
    typedef traits<B> T;
    // The products of what belongs to sums of activations: least values, or what the values were raised by.
    const auto of_sums = [&](int n) {
        __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) {
            sum = _mm512_dpwssd_epi32(sum, x.mins[j], four(by.y[n][block].bsums + 2 * j));
        }
        return sum;
    };
    __m512i products[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
        products[n] = T::has_min ? _mm512_setzero_si512() : of_sums(n);
    }
    for (int j = 0; j < 8; ++j) {
        const __m512i * weights = x.weights + 8 * j;
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) {
            const int8_t * y = by.y[n][block].qs + 32 * j;
            constexpr int GROUPS = T::scaled / 4;
#pragma GCC unroll 2
            for (int part = 0; part < 8 / GROUPS; ++part) {
                __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
                for (int g = part * GROUPS; g < (part + 1) * GROUPS; ++g) {
                    sum = _mm512_dpbusd_epi32(sum, weights[g], four(y + 4 * g));
                }
                const __m512i scaled = _mm512_mullo_epi32(sum, x.scales[8 / GROUPS * j + part]);
                products[n] = _mm512_add_epi32(products[n], scaled);
            }
        }
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
        __m512 scaled = _mm512_mul_ps(x.d, _mm512_cvtepi32_ps(products[n]));
        if constexpr (T::has_min) {
            scaled = _mm512_fnmadd_ps(x.m, _mm512_cvtepi32_ps(of_sums(n)), scaled);
        }
        sums[n] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(by.y[n][block].d), sums[n]);
    }
}

// Products of sixteen rows of weights with N rows of activations; `add` adds those of a block.
template <int N, typename B, typename Add>
PUNA_INLINE void add_all(int64_t blocks, const tokens<B> & by, int64_t first, const Add & add) {
    __m512 sums[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
        sums[n] = _mm512_setzero_ps();
    }
    for (int64_t block = 0; block < blocks; ++block) {
        add(block, sums);
    }
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
        _mm512_storeu_ps(by.out[n] + first, sums[n]);
    }
}

// With rows as they lie in the file.
template <int N, typename B>
static __attribute__((noinline)) void of_rows(const B * rows, size_t stride, int64_t blocks, const tokens<B> & by, int64_t first) {
    add_all<N>(blocks, by, first, [&](int64_t block, __m512 * sums) __attribute__((always_inline)) {
        // Behind its end, a row goes on sixteen rows below.
        const int64_t next = block + AHEAD / (int64_t) sizeof(B);
        const char * fetched = (const char *) (rows + next) + (next < blocks ? 0 : (ROWS - 1) * stride);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
            for (size_t line = 0; line < sizeof(B); line += 64) {
                _mm_prefetch(fetched + r * stride + line, _MM_HINT_T0);
            }
        }
        typename traits<B>::unpacked x;
        unpack(rows + block, stride, x);
        add_block<N>(x, by, block, sums);
    });
}

// With rows that were unpacked before.
template <int N, typename B>
static __attribute__((noinline)) void of_unpacked(const typename traits<B>::unpacked * x, int64_t blocks, const tokens<B> & by,
                                                  int64_t first) {
    add_all<N>(blocks, by, first, [&](int64_t block, __m512 * sums) __attribute__((always_inline)) {
        add_block<N>(x[block], by, block, sums);
    });
}

// With one row and few tokens.
template <int N, typename B>
static __attribute__((noinline)) void few_tokens(const B * row, int64_t blocks, const tokens<B> & by, int64_t first) {
    float products[N];
    puna::products<N>(row, blocks, by.y, products);
    for (int n = 0; n < N; ++n) {
        by.out[n][first] = products[n];
    }
}

// Calls a function with a number from 1 to MOST as a constant.
template <int MOST, int N = 1, typename F> static void with_count(int64_t n, const F & call) {
    if constexpr (N < MOST) {
        if (n != N) {
            return with_count<MOST, N + 1>(n, call);
        }
    }
    call(std::integral_constant<int, N>());
}

inline float scale(const block_q8_0 & block) { return _cvtsh_ss(block.d); }
inline float scale(const block_q8_1 & block) { return _cvtsh_ss(block.data.data.d); }

// The sum of 32 bytes.
inline int32_t sum_of(const int8_t * values) {
    const __m256i all = _mm256_loadu_si256((const __m256i *) values);
    const __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), all);
    return _mm512_reduce_add_epi32(_mm512_zextsi256_si512(fours));
}

// Describes blocks of activations, for weights of a type. Blocks of 256 say what is needed themselves.
template <typename B> static void describe(const typename traits<B>::activations * y, int64_t blocks, activation * about) {
    if constexpr (traits<B>::values == 32) {
        for (int64_t block = 0; block < blocks; ++block) {
            about[block].d = scale(y[block]);
            if constexpr (traits<B>::has_min) {
                about[block].s = _cvtsh_ss(y[block].data.data.s);
            } else {
                about[block].sum = -traits<B>::offset * sum_of(y[block].qs);
            }
        }
    }
}

// Rows of weights that a thread unpacks before it multiplies them with many rows of activations: as many as stay in its cache.
template <typename B> static int64_t rows_at_once(int64_t blocks) {
    constexpr int64_t CACHED = 512 << 10;
    return ROWS * std::clamp<int64_t>(CACHED / (blocks * (int64_t) sizeof(typename traits<B>::unpacked)), 1, 4);
}

// Bytes of memory that a thread needs for them.
template <typename B> static size_t scratch_bytes(int64_t blocks) {
    return rows_at_once<B>(blocks) / ROWS * blocks * sizeof(typename traits<B>::unpacked);
}

// Products of rows `from` to `to` of a matrix of weights with `count` rows of activations; `at` fills in some of those. Both
// bounds are multiples of sixteen.
template <typename B, typename At>
static void multiply(const char * weights, size_t stride, int64_t blocks, int64_t from, int64_t to, int64_t count, const At & at,
                     typename traits<B>::unpacked * scratch) {
    tokens<B> by;
    const auto rows = [&](int64_t row) { return (const B *) (weights + row * stride); };
    if constexpr (traits<B>::values == 256) {
        if (count <= FEW_TOKENS<B>) {
            at(0, count, by);
            return with_count<FEW_TOKENS<B>>(count, [&](auto n) {
                for (int64_t row = from; row < to; ++row) {
                    few_tokens<n.value>(rows(row), blocks, by, row);
                }
            });
        }
    }
    if (count <= TOKENS) {
        at(0, count, by);
        for (int64_t row = from; row < to; row += ROWS) {
            with_count<TOKENS>(count, [&](auto n) { of_rows<n.value>(rows(row), stride, blocks, by, row); });
        }
        return;
    }
    const int64_t step = rows_at_once<B>(blocks);
    for (int64_t first = from; first < to; first += step) {
        const int64_t tiles = (std::min(first + step, to) - first) / ROWS;
        for (int64_t tile = 0; tile < tiles; ++tile) {
            for (int64_t block = 0; block < blocks; ++block) {
                unpack(rows(first + tile * ROWS) + block, stride, scratch[tile * blocks + block]);
            }
        }
        for (int64_t token = 0; token < count; token += TOKENS) {
            const int64_t some = std::min<int64_t>(TOKENS, count - token);
            at(token, some, by);
            for (int64_t tile = 0; tile < tiles; ++tile) {
                with_count<TOKENS>(some, [&](auto n) {
                    of_unpacked<n.value>(scratch + tile * blocks, blocks, by, first + tile * ROWS);
                });
            }
        }
    }
}

} // namespace sixteen_rows
} // namespace puna

#endif
