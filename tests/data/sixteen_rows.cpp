// Checks patches/sixteen_rows.h, with few_tokens.h: products are right, and the same to the bit for any number of tokens.
// Status 1 and a line for each mistake; nothing is checked on a processor without AVX-512 VNNI.
#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"
#define GGML_COMMON_IMPL_CPP
#include "ggml-common.h"

#include "sixteen_rows.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#if defined(PUNA_SIXTEEN_ROWS)
using namespace puna::sixteen_rows;

static uint32_t state = 1;
static uint32_t random_bits() {
    state = state * 1664525 + 1013904223;
    return state >> 8;
}

// A 16-bit float of a few thousandths.
static uint16_t factor() { return 0x1400 + random_bits() % 0x1000; }
static double value(uint16_t half) { return _cvtsh_ss(half); }

// The factor of a block, its least value, and its values without both.
struct plain {
    double d, m;
    std::vector<double> values;
};

// The j-th of the scales or of the least values of Q4_K and Q5_K: 6 bits each.
static int six_bits(const uint8_t * packed, int j, bool min) {
    const int low = j < 4 ? packed[j + (min ? 4 : 0)] & 63 : packed[j + 4] >> (min ? 4 : 0) & 15;
    return j < 4 ? low : low | packed[j - (min ? 0 : 4)] >> 6 << 4;
}

// The weights of a block of Q4_K or Q5_K; `fifth` gives the fifth bit of a value.
template <typename B, typename F> static plain read_k(const B & b, const F & fifth) {
    std::vector<double> weights(256);
    for (int at = 0; at < 256; ++at) {
        const int part = at / 32;
        const int q = (b.qs[part / 2 * 32 + at % 32] >> part % 2 * 4 & 15) | fifth(at);
        weights[at] = value(b.data.data.d) * six_bits(b.scales, part, false) * q - value(b.data.data.dmin) * six_bits(b.scales, part, true);
    }
    return {1, 0, weights};
}
static plain read(const block_q4_K & b) {
    return read_k(b, [](int) { return 0; });
}
static plain read(const block_q5_K & b) {
    return read_k(b, [&](int at) { return (b.qh[at % 32] >> at / 32 & 1) << 4; });
}
static plain read(const block_q6_K & b) {
    std::vector<double> weights(256);
    for (int at = 0; at < 256; ++at) {
        const int half = at / 128, part = at % 128 / 32, place = at % 32;
        const int low = b.ql[64 * half + part % 2 * 32 + place] >> part / 2 * 4 & 15;
        const int high = b.qh[32 * half + place] >> part * 2 & 3;
        weights[at] = b.scales[at / 16] * ((low | high << 4) - 32);
    }
    return {value(b.d), 0, weights};
}

template <typename B> static void set(B & block) { block.d = factor(); }
template <> void set(block_q4_1 & block) { block.data.data = {factor(), factor()}; }
template <> void set(block_q5_1 & block) { block.data.data = {factor(), factor()}; }
template <> void set(block_q4_K & block) { block.data.data = {factor(), factor()}; }
template <> void set(block_q5_K & block) { block.data.data = {factor(), factor()}; }
template <> void set(block_mxfp4 & block) { block.e = 110 + random_bits() % 20; }

static int fifth(const uint8_t * bits, int place) { return ((bits[place / 8] >> (place % 8)) & 1) << 4; }

template <typename F> static std::vector<double> of_halves(const uint8_t * packed, const F & as) {
    std::vector<double> values(32);
    for (int j = 0; j < 16; ++j) {
        values[j] = as(packed[j] & 15, j);
        values[j + 16] = as(packed[j] >> 4, j + 16);
    }
    return values;
}

static plain read(const block_q4_0 & b) { return {value(b.d), 0, of_halves(b.qs, [](int q, int) { return q - 8; })}; }
static plain read(const block_q4_1 & b) {
    return {value(b.data.data.d), value(b.data.data.m), of_halves(b.qs, [](int q, int) { return q; })};
}
static plain read(const block_q5_0 & b) {
    return {value(b.d), 0, of_halves(b.qs, [&](int q, int at) { return (q | fifth(b.qh, at)) - 16; })};
}
static plain read(const block_q5_1 & b) {
    return {value(b.data.data.d), value(b.data.data.m), of_halves(b.qs, [&](int q, int at) { return q | fifth(b.qh, at); })};
}
static plain read(const block_q8_0 & b) { return {value(b.d), 0, std::vector<double>(b.qs, b.qs + 32)}; }
static plain read(const block_iq4_nl & b) {
    return {value(b.d), 0, of_halves(b.qs, [](int q, int) { return kvalues_iq4nl[q]; })};
}
static plain read(const block_mxfp4 & b) {
    return {std::ldexp(1.0, b.e - 128), 0, of_halves(b.qs, [](int q, int) { return kvalues_mxfp4[q]; })};
}

static void fill(block_q8_0 & y) {
    y.d = factor();
    for (int8_t & q : y.qs) {
        q = random_bits() % 255 - 127;
    }
}
static void fill(block_q8_1 & y) {
    int sum = 0;
    for (int8_t & q : y.qs) {
        sum += q = random_bits() % 255 - 127;
    }
    const uint16_t d = factor();
    y.data.data = {d, _cvtss_sh(sum * _cvtsh_ss(d), 0)};
}
static void fill(block_q8_K & y) {
    y.d = 0.001f * (1 + random_bits() % 1000);
    for (int i = 0; i < 256; ++i) {
        y.qs[i] = random_bits() % 255 - 127;
    }
    for (int i = 0; i < 16; ++i) {
        y.bsums[i] = 0;
        for (int j = 0; j < 16; ++j) {
            y.bsums[i] += y.qs[16 * i + j];
        }
    }
}
static double scale_of(const block_q8_0 & y) { return value(y.d); }
static double scale_of(const block_q8_1 & y) { return value(y.data.data.d); }
static double scale_of(const block_q8_K & y) { return y.d; }
template <typename Y> static double least_sum(const Y &) { return 0; }
template <> double least_sum(const block_q8_1 & y) { return value(y.data.data.s); }

constexpr int64_t WEIGHT_ROWS = 80, MOST = 70;
static const int COUNTS[] = {1, 2, 5, 8, 9, 15, 16, 17, 33, MOST};

template <typename B> struct matrix {
    typedef typename traits<B>::activations Y;
    int64_t blocks;
    std::vector<B> weights;
    std::vector<Y> y;
    std::vector<activation> about;

    explicit matrix(int64_t blocks)
        : blocks(blocks), weights(WEIGHT_ROWS * blocks), y(MOST * blocks), about(MOST * blocks) {
        for (B & block : weights) {
            for (size_t i = 0; i < sizeof(B); ++i) {
                ((uint8_t *) &block)[i] = random_bits();
            }
        }
        for (Y & block : y) {
            fill(block);
        }
    }

    // Products with the first rows of activations, a row of products for each.
    std::vector<float> products(int64_t count) {
        describe<B>(y.data(), MOST * blocks, about.data());
        std::vector<float> out(MOST * WEIGHT_ROWS);
        const auto at = [&](int64_t from, int64_t some, tokens<B> & by) {
            for (int64_t i = 0; i < some; ++i) {
                by.y[i] = &y[(from + i) * blocks];
                by.about[i] = &about[(from + i) * blocks];
                by.out[i] = &out[(from + i) * WEIGHT_ROWS];
            }
        };
        void * scratch = std::aligned_alloc(64, scratch_bytes<B>(blocks));
        multiply<B>((const char *) weights.data(), blocks * sizeof(B), blocks, 0, WEIGHT_ROWS, count, at,
                    (typename traits<B>::unpacked *) scratch);
        std::free(scratch);
        return out;
    }
};

static bool report(bool wrong, const char * name, int count, const char * what) {
    if (wrong) {
        std::printf("%s, %d tokens: %s\n", name, count, what);
    }
    return wrong;
}

static bool differ(const std::vector<float> & a, const std::vector<float> & b, int count) {
    return std::memcmp(a.data(), b.data(), count * WEIGHT_ROWS * sizeof(float)) != 0;
}

// The product of a row of weights with a row of activations, and the sum of the sizes of what it adds.
template <typename B> static std::pair<double, double> product(const matrix<B> & all, int64_t row, int64_t token) {
    double sum = 0, size = 0;
    for (int64_t i = 0; i < all.blocks; ++i) {
        const plain x = read(all.weights[row * all.blocks + i]);
        const auto & y = all.y[token * all.blocks + i];
        double of_block = x.m * least_sum(y);
        for (size_t j = 0; j < x.values.size(); ++j) {
            of_block += x.d * x.values[j] * scale_of(y) * y.qs[j];
        }
        sum += of_block;
        size += std::fabs(of_block);
    }
    return {sum, size};
}

template <typename B> static bool is_wrong(const char * name, int64_t blocks) {
    matrix<B> all(blocks);
    for (B & block : all.weights) {
        set(block);
    }
    const std::vector<float> whole = all.products(MOST);
    bool wrong = false;
    for (int count : COUNTS) {
        wrong |= report(differ(all.products(count), whole, count), name, count, "not the same to the bit");
    }
    for (int64_t at = 0; at < MOST * WEIGHT_ROWS; ++at) {
        const auto [sum, size] = product(all, at % WEIGHT_ROWS, at / WEIGHT_ROWS);
        if (report(std::fabs(whole[at] - sum) > 1e-6 * size, name, MOST, "a wrong product")) {
            return true;
        }
    }
    return wrong;
}

int main() {
    bool wrong = is_wrong<block_q4_0>("Q4_0", 18) | is_wrong<block_q4_1>("Q4_1", 18) | is_wrong<block_q5_0>("Q5_0", 18);
    wrong |= is_wrong<block_q5_1>("Q5_1", 18) | is_wrong<block_q8_0>("Q8_0", 18) | is_wrong<block_iq4_nl>("IQ4_NL", 18);
    wrong |= is_wrong<block_mxfp4>("MXFP4", 18);
    wrong |= is_wrong<block_q4_K>("Q4_K", 3) | is_wrong<block_q5_K>("Q5_K", 3) | is_wrong<block_q6_K>("Q6_K", 3);
    return wrong;
}
#else
int main() { return 0; }
#endif
