// Checks patches/sixteen_rows.h and few_tokens.h: products are right, and the same to the bit for any number of tokens.
// Status 1 and a line for each mistake; nothing is checked on a processor without AVX-512 VNNI.
#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"
#define GGML_COMMON_IMPL_CPP
#include "ggml-common.h"

#include "few_tokens.h"
#include "sixteen_rows.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
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

template <typename B> static void set(B & block) { block.d = factor(); }
template <> void set(block_q4_1 & block) { block.data.data = {factor(), factor()}; }
template <> void set(block_q5_1 & block) { block.data.data = {factor(), factor()}; }
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
static double sum_of(const block_q8_0 &) { return 0; }
static double sum_of(const block_q8_1 & y) { return value(y.data.data.s); }

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

template <typename B> static bool small_blocks(const char * name) {
    matrix<B> all(18);
    for (B & block : all.weights) {
        set(block);
    }
    const std::vector<float> whole = all.products(MOST);
    bool wrong = false;
    for (int count : COUNTS) {
        wrong |= report(differ(all.products(count), whole, count), name, count, "not the same to the bit");
    }
    for (int64_t at = 0; at < MOST * WEIGHT_ROWS; ++at) {
        double sum = 0, size = 0;
        for (int64_t i = 0; i < all.blocks; ++i) {
            const plain x = read(all.weights[at % WEIGHT_ROWS * all.blocks + i]);
            const auto & y = all.y[at / WEIGHT_ROWS * all.blocks + i];
            double product = x.m * sum_of(y);
            for (int j = 0; j < 32; ++j) {
                product += x.d * x.values[j] * scale_of(y) * y.qs[j];
            }
            sum += product;
            size += std::fabs(product);
        }
        if (report(std::fabs(whole[at] - sum) > 1e-6 * size, name, MOST, "a wrong product")) {
            return true;
        }
    }
    return wrong;
}

static void set_k(block_q4_K & block) { block.data.data = {factor(), factor()}; }
static void set_k(block_q5_K & block) { block.data.data = {factor(), factor()}; }
static void set_k(block_q6_K & block) { block.d = factor(); }

template <typename B> static bool large_blocks(const char * name) {
    matrix<B> all(3);
    for (B & block : all.weights) {
        set_k(block);
    }
    std::vector<float> few(MOST * WEIGHT_ROWS);
    for (int64_t at = 0; at < MOST * WEIGHT_ROWS; ++at) {
        const block_q8_K * y[1] = {&all.y[at / WEIGHT_ROWS * all.blocks]};
        puna::products<1>(&all.weights[at % WEIGHT_ROWS * all.blocks], all.blocks, y, &few[at]);
    }
    bool wrong = false;
    for (int count : COUNTS) {
        wrong |= report(differ(all.products(count), few, count), name, count, "not what few_tokens.h computes");
    }
    return wrong;
}

int main() {
    bool wrong = small_blocks<block_q4_0>("Q4_0") | small_blocks<block_q4_1>("Q4_1") | small_blocks<block_q5_0>("Q5_0");
    wrong |= small_blocks<block_q5_1>("Q5_1") | small_blocks<block_q8_0>("Q8_0") | small_blocks<block_iq4_nl>("IQ4_NL");
    wrong |= small_blocks<block_mxfp4>("MXFP4");
    wrong |= large_blocks<block_q4_K>("Q4_K") | large_blocks<block_q5_K>("Q5_K") | large_blocks<block_q6_K>("Q6_K");
    return wrong;
}
#else
int main() { return 0; }
#endif
