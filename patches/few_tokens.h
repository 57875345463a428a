// Products of weights of K types with the activations of a few tokens, where a decode is too small for
// sixteen_rows.h. A block of weights is unpacked once for all of them.
//
// The sums of integers in a block are exact, and blocks are added one by one as in the tiles, so a product is the
// same to the bit in tiles, here and in ggml_vec_dot.
#pragma once

#include "ggml-common.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#define PUNA_FEW_TOKENS

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace puna {

#define PUNA_INLINE inline __attribute__((always_inline))

// Most tokens that are computed here. With more, sixteen_rows.h unpacks a block for sixteen rows: a matrix of 2048 by 131072 in
// Q4_K takes 4.8 ms with 4 tokens here and there, with 5 tokens 6.4 and 4.3 ms; in Q6_K 8.2 and 10.8 with 8 tokens (two cores of
// an EPYC with AVX-512).
template <typename B> constexpr int FEW_TOKENS = 4;
template <> constexpr int FEW_TOKENS<block_q6_K> = 8;
// Weights are fetched so many bytes ahead.
constexpr int AHEAD = 3072;

// One block's 256 weights, unpacked to unsigned bytes.
struct unpacked {
    __m512i weights[4];
    __m512i scales[4]; // 16 bits wide, one for each pair of weights
    __m512i offsets;   // 16 bits wide, one for each sum of 16 activations, or none
    __m256i mins;      // the same, of the sums that dmin belongs to
};

// The scale of a block, and what its least values are multiplied by.
inline float scale(const block_q4_K & block) { return _cvtsh_ss(block.data.data.d); }
inline float scale(const block_q5_K & block) { return _cvtsh_ss(block.data.data.d); }
inline float scale(const block_q6_K & block) { return _cvtsh_ss(block.d); }
inline float min_scale(const block_q4_K & block) { return _cvtsh_ss(block.data.data.dmin); }
inline float min_scale(const block_q5_K & block) { return _cvtsh_ss(block.data.data.dmin); }

// Scales and least values of Q4_K and Q5_K, 6 bits each in 12 bytes: 8 scales and 8 least values, 16 bits each.
PUNA_INLINE __m256i scales_and_mins(const uint8_t * packed) {
    const __m128i words = _mm_loadu_si128((const __m128i *) packed);
    const __m128i low = _mm_srlv_epi32(_mm_shuffle_epi32(words, _MM_SHUFFLE(2, 1, 2, 0)), _mm_setr_epi32(0, 0, 0, 4));
    const __m128i high = _mm_srli_epi32(_mm_shuffle_epi32(words, _MM_SHUFFLE(1, 1, 0, 0)), 2);
    const __m128i low_bits = _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f);
    const __m128i high_bits = _mm_setr_epi32(0, 0x30303030, 0, 0x30303030);
    return _mm256_cvtepu8_epi16(_mm_or_si128(_mm_and_si128(low, low_bits), _mm_and_si128(high, high_bits)));
}

// Sixteen lanes of the first scale, sixteen of the second.
PUNA_INLINE __m512i two_scales(__m256i scales, int first) {
    const __m512i index = _mm512_inserti64x4(_mm512_set1_epi16((short) first), _mm256_set1_epi16((short) (first + 1)), 1);
    return _mm512_permutexvar_epi16(index, _mm512_castsi256_si512(scales));
}

PUNA_INLINE __m256i doubled_mins(__m256i scales_and_mins) {
    const __m256i index = _mm256_setr_epi16(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
    return _mm256_permutexvar_epi16(index, scales_and_mins);
}

// 32 bytes of low halves, then those of high halves.
PUNA_INLINE __m512i halves(const uint8_t * packed) {
    const __m256i bytes = _mm256_loadu_si256((const __m256i *) packed);
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(bytes), _mm256_srli_epi16(bytes, 4), 1);
    return _mm512_and_si512(both, _mm512_set1_epi8(15));
}

PUNA_INLINE void unpack(const block_q4_K & block, unpacked & to) {
    const __m256i scales = scales_and_mins(block.scales);
    to.mins = doubled_mins(scales);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        to.weights[j] = halves(block.qs + 32 * j);
        to.scales[j] = two_scales(scales, 2 * j);
    }
}

PUNA_INLINE void unpack(const block_q5_K & block, unpacked & to) {
    const __m256i scales = scales_and_mins(block.scales);
    to.mins = doubled_mins(scales);
    const __m256i high = _mm256_loadu_si256((const __m256i *) block.qh);
    const __m512i bits = _mm512_inserti64x4(_mm512_castsi256_si512(high), _mm256_srli_epi16(high, 1), 1);
    const __m512i fifth[4] = {_mm512_slli_epi16(bits, 4), _mm512_slli_epi16(bits, 2), bits, _mm512_srli_epi16(bits, 2)};
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        to.weights[j] = _mm512_or_si512(halves(block.qs + 32 * j), _mm512_and_si512(fifth[j], _mm512_set1_epi8(16)));
        to.scales[j] = two_scales(scales, 2 * j);
    }
}

PUNA_INLINE void unpack(const block_q6_K & block, unpacked & to) {
    const __m256i scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) block.scales));
    to.offsets = _mm512_zextsi256_si512(_mm256_mullo_epi16(scales, _mm256_set1_epi16(-32)));
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        const __m512i low = _mm512_loadu_si512(block.ql + 64 * half);
        const __m256i high = _mm256_loadu_si256((const __m256i *) (block.qh + 32 * half));
        const __m512i bits = _mm512_inserti64x4(_mm512_castsi256_si512(high), _mm256_srli_epi16(high, 2), 1);
        const __m512i four = _mm512_set1_epi8(15), two = _mm512_set1_epi8(48);
        to.weights[2 * half] = _mm512_or_si512(_mm512_and_si512(low, four), _mm512_and_si512(_mm512_slli_epi16(bits, 4), two));
        to.weights[2 * half + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(low, 4), four), _mm512_and_si512(bits, two));
    }
    const __m512i index = _mm512_set_epi16(3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        const __m512i at = _mm512_add_epi16(index, _mm512_set1_epi16((short) (4 * j)));
        to.scales[j] = _mm512_permutexvar_epi16(at, _mm512_castsi256_si512(scales));
    }
}

template <typename B> constexpr bool has_mins = true;
template <> constexpr bool has_mins<block_q6_K> = false;

// The sums of four vectors.
PUNA_INLINE __m128i sums_of_four(const __m256i * a) {
    const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(a[2], a[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
}

// Adds the products of S blocks of a row of weights with N rows of activations.
template <int N, int S, typename B>
PUNA_INLINE void add_blocks(const B * row, int64_t first, const block_q8_K * const * y, float * sum) {
    constexpr int SUMS = (S * N + 3) / 4 * 4;
    __m256i all[SUMS], mins[SUMS];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
        const B & block = row[first + s];
        unpacked x;
        unpack(block, x);
        _mm_prefetch((const char *) &block + AHEAD, _MM_HINT_T0);
        _mm_prefetch((const char *) &block + AHEAD + 64, _MM_HINT_T0);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            const block_q8_K & by = y[n][first + s];
            const __m256i bsums = _mm256_loadu_si256((const __m256i *) by.bsums);
            __m512i acc;
            if constexpr (has_mins<B>) {
                mins[s * N + n] = _mm256_madd_epi16(bsums, x.mins);
                acc = _mm512_setzero_si512();
            } else {
                acc = _mm512_madd_epi16(_mm512_zextsi256_si512(bsums), x.offsets);
            }
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const __m512i pairs = _mm512_maddubs_epi16(x.weights[j], _mm512_loadu_si512(by.qs + 64 * j));
                acc = _mm512_dpwssd_epi32(acc, pairs, x.scales[j]);
            }
            all[s * N + n] = _mm256_add_epi32(_mm512_castsi512_si256(acc), _mm512_extracti64x4_epi64(acc, 1));
        }
    }
#pragma GCC unroll 4
    for (int i = S * N; i < SUMS; ++i) {
        all[i] = mins[i] = _mm256_setzero_si256();
    }
    alignas(16) float scaled[SUMS];
#pragma GCC unroll 2
    for (int i = 0; i < SUMS; i += 4) {
        const auto at = [&](int j) -> const B & { return row[first + std::min((i + j) / N, S - 1)]; };
        const __m128 d = S == 1 ? _mm_set1_ps(scale(row[first])) : _mm_setr_ps(scale(at(0)), scale(at(1)), scale(at(2)), scale(at(3)));
        __m128 r = _mm_mul_ps(d, _mm_cvtepi32_ps(sums_of_four(all + i)));
        if constexpr (has_mins<B>) {
            const __m128 m = S == 1 ? _mm_set1_ps(min_scale(row[first]))
                                    : _mm_setr_ps(min_scale(at(0)), min_scale(at(1)), min_scale(at(2)), min_scale(at(3)));
            r = _mm_fnmadd_ps(m, _mm_cvtepi32_ps(sums_of_four(mins + i)), r);
        }
        _mm_store_ps(scaled + i, r);
    }
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            sum[n] = std::fma(scaled[s * N + n], y[n][first + s].d, sum[n]);
        }
    }
}

// Products of one row of weights with N rows of activations.
template <int N, typename B>
PUNA_INLINE void products(const B * row, int64_t blocks, const block_q8_K * const * y, float * out) {
    // Sums are formed four at a time.
    constexpr int AT_ONCE = N == 1 ? 4 : N == 2 ? 2 : 1;
    float sum[N] = {};
    int64_t first = 0;
    for (; first + AT_ONCE <= blocks; first += AT_ONCE) {
        add_blocks<N, AT_ONCE>(row, first, y, sum);
    }
    for (; first < blocks; ++first) {
        add_blocks<N, 1>(row, first, y, sum);
    }
    std::memcpy(out, sum, sizeof(sum));
}

} // namespace puna

#endif
