// Computes small attentions with patches/attention.h and compares them: with one in double precision, and to the bit with
// each token computed alone over cells that lie in order. Prints what is wrong; the status is the number of cases.

#include "attention.h"

#include <cstdio>

#ifndef PUNA_ATTENTION
int main() { std::puts("skipped: no AVX2"); }
#else

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace {

constexpr int CELLS = 512, HEADS = 6, KV_HEADS = 2, TOKENS = 40;

std::mt19937 random_bits(1);
float any() { return std::uniform_real_distribution<float>(-2.0f, 2.0f)(random_bits); }

// One case: a length of heads, a bound of scores, sinks, and what each token sees of the positions.
struct Case {
    const char * name;
    int length;
    float softcap;
    bool sinks;
    std::vector<std::vector<char>> sees;
};

struct Values {
    std::vector<float> q, sinks;
    std::vector<uint16_t> k, v;
    explicit Values(int length) : q(TOKENS * HEADS * length), sinks(HEADS), k(CELLS * KV_HEADS * length), v(k.size()) {
        std::generate(q.begin(), q.end(), any);
        std::generate(sinks.begin(), sinks.end(), any);
        std::generate(k.begin(), k.end(), [] { return _cvtss_sh(any(), 0); });
        std::generate(v.begin(), v.end(), [] { return _cvtss_sh(any(), 0); });
    }
};

// The attention of tokens `first` to `last`; position p lies in the cell cells[p].
std::vector<float> computed(const Case & c, const Values & x, const std::vector<int> & cells, int first, int last, int threads) {
    const int row = KV_HEADS * c.length, tokens = last - first;
    std::vector<uint16_t> k(x.k.size()), v(k.size()), mask((tokens + 2) * CELLS);
    std::vector<float> out(tokens * HEADS * c.length);
    for (int p = 0; p < CELLS; ++p) {
        std::copy_n(&x.k[p * row], row, &k[cells[p] * row]);
        std::copy_n(&x.v[p * row], row, &v[cells[p] * row]);
        for (int t = 0; t < tokens; ++t) {
            mask[t * CELLS + cells[p]] = c.sees[first + t][p] ? 0 : 0xFC00;
        }
        mask[tokens * CELLS + p] = _cvtss_sh(cells[p] / 1024, 0);
        mask[(tokens + 1) * CELLS + p] = _cvtss_sh(cells[p] % 1024, 0);
    }
    if (std::is_sorted(cells.begin(), cells.end())) {
        mask[tokens * CELLS] = _cvtss_sh(-1.0f, 0);
    }
    puna::attention a = {};
    a.q = (const char *) &x.q[first * HEADS * c.length];
    a.q_token = HEADS * c.length * sizeof(float);
    a.q_head = a.out_head = c.length * sizeof(float);
    a.k = (const char *) k.data();
    a.v = (const char *) v.data();
    a.k_cell = a.v_cell = row * sizeof(uint16_t);
    a.k_head = a.v_head = c.length * sizeof(uint16_t);
    a.mask = (const char *) mask.data();
    a.mask_token = CELLS * sizeof(uint16_t);
    a.order = &mask[tokens * CELLS];
    a.sinks = c.sinks ? x.sinks.data() : nullptr;
    a.out = (char *) out.data();
    a.tokens = tokens;
    a.heads = HEADS;
    a.cells = CELLS;
    a.kv_heads = KV_HEADS;
    a.streams = a.kv_streams = a.mask_streams = 1;
    a.key = a.value = c.length;
    a.scale = 0.25f;
    a.softcap = c.softcap;
    puna::scratch scratch;
    const puna::tiling tiling(a, threads);
    puna::worker worker(a, scratch);
    for (int64_t i = 0; i < tiling.count(); ++i) {
        worker.compute(tiling.at(i));
    }
    return out;
}

// How far a result is from one in double precision, at most.
double error(const Case & c, const Values & x, const std::vector<float> & out) {
    double most = 0.0;
    for (int i = 0; i < TOKENS * HEADS; ++i) {
        const int t = i / HEADS, h = i % HEADS, kv = h / (HEADS / KV_HEADS);
        double total = c.sinks ? std::exp((double) x.sinks[h]) : 0.0;
        std::vector<double> sum(c.length);
        for (int p = 0; p < CELLS; ++p) {
            double s = 0.0;
            for (int d = 0; d < c.length; ++d) {
                s += x.q[i * c.length + d] * (double) _cvtsh_ss(x.k[(p * KV_HEADS + kv) * c.length + d]);
            }
            s *= 0.25;
            s = c.softcap != 0.0f ? c.softcap * std::tanh(s / c.softcap) : s;
            const double weight = c.sees[t][p] ? std::exp(s) : 0.0;
            total += weight;
            for (int d = 0; d < c.length; ++d) {
                sum[d] += weight * _cvtsh_ss(x.v[(p * KV_HEADS + kv) * c.length + d]);
            }
        }
        for (int d = 0; d < c.length; ++d) {
            most = std::max(most, std::fabs(sum[d] / total - out[i * c.length + d]));
        }
    }
    return most;
}

// True if a case comes out right however it is computed.
bool is_right(const Case & c) {
    const Values x(c.length);
    std::vector<int> in_order(CELLS);
    std::iota(in_order.begin(), in_order.end(), 0);
    std::vector<float> alone;
    for (int t = 0; t < TOKENS; ++t) {
        const auto one = computed(c, x, in_order, t, t + 1, 1);
        alone.insert(alone.end(), one.begin(), one.end());
    }
    if (!(error(c, x, alone) < 1e-5)) {
        std::printf("%s: %g from double precision\n", c.name, error(c, x, alone));
        return false;
    }
    for (int round = 0; round < 20; ++round) {
        auto cells = in_order;
        if (round % 3 == 1) { // As cells lie whose beginning was freed and used again.
            std::rotate(cells.begin(), cells.begin() + 1 + random_bits() % (CELLS - 1), cells.end());
            std::swap(cells[random_bits() % CELLS], cells[random_bits() % CELLS]);
        } else if (round % 3 == 2) {
            std::shuffle(cells.begin(), cells.end(), random_bits);
        }
        if (computed(c, x, cells, 0, TOKENS, 1 + round % 4) != alone) {
            std::printf("%s: round %d differs from tokens alone\n", c.name, round);
            return false;
        }
    }
    return true;
}

// What TOKENS tokens see: `from` and `to` give the first and the last position of each.
template <typename F, typename T> std::vector<std::vector<char>> seen(F from, T to) {
    std::vector<std::vector<char>> sees(TOKENS, std::vector<char>(CELLS));
    for (int t = 0; t < TOKENS; ++t) {
        for (int p = from(t); p <= to(t); ++p) {
            sees[t][p] = 1;
        }
    }
    return sees;
}

} // namespace

int main() {
    const auto start = [](int) { return 0; };
    const auto causal = seen(start, [](int t) { return 400 + t; });
    const std::vector<Case> cases = {
        {"heads of 64", 64, 0.0f, false, causal},
        {"heads of 128", 128, 0.0f, false, causal},
        {"heads that fill no vector", 40, 0.0f, false, causal},
        {"bounded scores", 64, 20.0f, false, causal},
        {"sinks", 64, 0.0f, true, causal},
        {"the first tokens", 64, 0.0f, false, seen(start, [](int t) { return t; })},
        {"a window", 64, 0.0f, false, seen([](int t) { return 100 + t; }, [](int t) { return 300 + t; })},
        // Every second token sees nothing of the first cells that its neighbour sees.
        {"windows far apart", 64, 0.0f, false, seen([](int t) { return t % 2 * 80; }, [](int) { return 450; })},
        {"other sequences", 64, 0.0f, false, seen([](int t) { return t % 8 * 60; }, [](int t) { return t % 8 * 60 + 50; })},
    };
    return (int) std::count_if(cases.begin(), cases.end(), [](const Case & c) { return !is_right(c); });
}

#endif
