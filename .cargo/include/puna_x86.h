// Included before every C++ file of llama.cpp on x86-64 Linux.
//
// ggml's loops over 16-bit floats take 128 at a time where the compiler has AVX512-FP16, and what is
// left over one by one. Heads of 64 are nothing but left over: flash attention then runs at half its
// speed or less. Told that the compiler has none, ggml takes 64 at a time and adds them up in 32 bits.
#undef __AVX512FP16__

// gcc before 13.2.1 declares that _tile_loadconfig reads 8 bytes of the 64 that the processor
// reads, so its optimiser may drop the stores of the rest, and an AMX matrix product then traps.
// Here the whole block is the operand. Harmless for a fixed gcc; clang is left alone.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
struct puna_tile_config {
    unsigned char bytes[64];
};
static inline __attribute__((always_inline)) void puna_tile_loadconfig(const void * config) {
    __asm__ volatile("ldtilecfg\t%0" ::"m"(*(const struct puna_tile_config *) config));
}
#define _tile_loadconfig puna_tile_loadconfig
#endif

// tinyBLAS (`ggml-cpu/llamafile/sgemm.cpp`) reads weights of 4, 5 and 8 bits (Q4_0, Q5_0, Q8_0) four rows at
// a time, each in a burst shorter than what a processor prefetches: two thirds of the time of up to eight
// columns went by waiting. The rows lie one behind the other, so what lies so many bytes ahead is needed
// soon; from 2048 to 4096 all are alike (gemma-3-270m, eight sequences: 37.7 ms a decode, with it 22).
#if defined(__AVX2__)
#include <immintrin.h>
static inline __attribute__((always_inline)) void puna_fetch_ahead(const void * from) {
    if (__builtin_strstr(__BASE_FILE__, "llamafile/sgemm.cpp")) {
        __builtin_prefetch((const char *) from + 3072);
    }
}
static inline __attribute__((always_inline)) __m256i puna_loadu_256(const __m256i_u * from) {
    puna_fetch_ahead(from);
    return _mm256_loadu_si256(from);
}
static inline __attribute__((always_inline)) __m128i puna_loadu_128(const __m128i_u * from) {
    puna_fetch_ahead(from);
    return _mm_loadu_si128(from);
}
#define _mm256_loadu_si256 puna_loadu_256
#define _mm_loadu_si128 puna_loadu_128
#endif
